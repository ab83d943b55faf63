"""Starts our operations, each in a process of its own, and watches it from outside.

Measured twice: from inside, once the process is ready (as in the daemon), and from outside,
from the start of the interpreter to its end.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import typer

from bench.measure import MIB, MemoryWatch, Run, ended_with_us, folder_bytes

ROOT = Path(__file__).resolve().parent.parent


class Ours:
    """One repository and what is done with it."""

    name = "mover"

    def __init__(
        self, repository: Path | str, cache: Path, data: dict[str, Any], options: dict[str, str] | None = None
    ) -> None:
        """repository: a folder, or an address with ``options``."""
        self.repository, self.cache = repository, cache
        self._common = {
            "repository": str(repository),
            "cache": str(cache),
            "data": data,
            "options": options or {},
        }

    def prepare(self) -> None:
        """A new, empty repository, and a client that has never seen it."""
        shutil.rmtree(self.cache, ignore_errors=True)
        if isinstance(self.repository, Path):
            shutil.rmtree(self.repository, ignore_errors=True)
        self._process({"operation": "init"}, is_measured=False)

    def run(self, what: str, round_: int, **request: Any) -> Run:
        """One operation. Ends the bench when it fails."""
        operation = "restore" if what.endswith("restore") else "backup"
        found, peak = self._process({"operation": operation, **request})
        wall, cpu = found.pop("wall_s"), found.pop("cpu_s")
        stored = folder_bytes(self.repository) if isinstance(self.repository, Path) else 0
        return Run(self.name, what, round_, wall, cpu, peak, stored, found)

    def _process(self, request: dict[str, Any], *, is_measured: bool = True) -> tuple[dict[str, Any], float]:
        command = [sys.executable, "-m", "bench.ours", json.dumps(self._common | request)]
        started = perf_counter()
        with (
            subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
            ) as process,
            MemoryWatch(process.pid) as memory,
            ended_with_us(process),
        ):
            assert process.stdin is not None
            assert process.stdout is not None
            if is_measured:
                process.stdout.readline()
                process.stdin.write("go\n")
                process.stdin.flush()
            said = process.stdout.read()
            process.wait()
            whole_s = perf_counter() - started
        if process.returncode:
            raise typer.Exit(1)
        return {**json.loads(said), "process_s": whole_s}, memory.peak_bytes / MIB
