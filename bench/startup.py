"""How long a command takes that does next to nothing: the interpreter, its imports, and the passphrase's scrypt.

Each sample is a process of its own, with bytecode at hand as after an installation. ``points`` lists an
empty encrypted repository; the same without encryption shows what scrypt takes, on purpose.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import typer

from bench.kit import Bench, Folder, Out, Quick, Samples, bench, work_folder
from mover.clock import secret_bytes, stopwatch

TARGET_S = {"help": 0.25, "points": 0.6}
"""On a machine that does nothing else."""
_ROOM_BYTES = 64 << 20


def main(folder: Folder = None, samples: Samples = 10, out: Out = None, quick: Quick = False) -> None:
    """Measure the start of the interpreter, of mover --help and of mover points."""
    samples = 1 if quick else samples
    with bench("startup", out, quick=quick, samples=samples) as run, work_folder(folder, _ROOM_BYTES) as work:
        closed = _environment(work, secret_bytes(16).hex())
        plain = _environment(work, "")
        _start(["-m", "mover", "init", "-r", str(work / "encrypted")], closed)
        _start(["-m", "mover", "init", "-r", str(work / "plain"), "--no-encryption"], plain)
        commands = {
            "python": (["-c", "pass"], plain),
            "help": (["-m", "mover", "--help"], plain),
            "points": (["-m", "mover", "points", "-r", str(work / "encrypted")], closed),
            "points.unencrypted": (["-m", "mover", "points", "-r", str(work / "plain")], plain),
        }
        for words, environment in commands.values():
            # Compiles what it imports.
            _start(words, environment)
        for _ in range(samples):
            for name, (words, environment) in commands.items():
                _sample(run, name, words, environment)


def _sample(run: Bench, name: str, words: list[str], environment: dict[str, str]) -> None:
    used, began = _cpu_of_children_s(), stopwatch()
    _start(words, environment)
    series = run.add(f"startup.{name}.time", stopwatch() - began, "s", "lower")
    series.target = TARGET_S.get(name)
    run.add(f"startup.{name}.cpu", _cpu_of_children_s() - used, "s", "lower")


def _cpu_of_children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _start(words: list[str], environment: dict[str, str]) -> None:
    subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, check=True)


def _environment(work: Path, passphrase: str) -> dict[str, str]:
    """No settings but ours, bytecode kept in the folder."""
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("MOVER_", "PYTHONDONTWRITEBYTECODE"))
    }
    return {
        **kept,
        "PYTHONPYCACHEPREFIX": str(work / "bytecode"),
        "MOVER_STATE_DIR": str(work / "state"),
        "MOVER_REPOSITORY__PASSPHRASE": passphrase,
    }


if __name__ == "__main__":
    typer.run(main)
