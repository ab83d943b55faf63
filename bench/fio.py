"""fio as the measure of a device, where it is installed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from mover.errors import UsageError


def version() -> str | None:
    """None when it is not installed."""
    if shutil.which("fio") is None:
        return None
    return subprocess.run(["fio", "--version"], check=True, capture_output=True, text=True).stdout.strip()


def read_rate(device: Path, *, read_bytes: int, size_bytes: int, depth: int, is_random: bool = False) -> float:
    """Bytes a second: direct reads of ``size_bytes``, ``depth`` in flight. Raises UsageError with fio's words."""
    command = [
        "fio",
        "--name=read",
        f"--filename={device}",
        "--readonly",
        f"--rw={'randread' if is_random else 'read'}",
        f"--bs={size_bytes}",
        f"--size={read_bytes}",
        f"--iodepth={depth}",
        "--direct=1",
        "--ioengine=libaio",
        "--output-format=json",
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise UsageError(
            f"fio cannot read {device}: {said[-1] if said else done.returncode}",
            remedy="Name a disk or file that allows direct reads; tmpfs does not.",
        )
    job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]["read"]
    return float(job["bw_bytes"])
