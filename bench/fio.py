"""fio as the measure of a device, where it is installed."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mover.errors import UsageError


def version() -> str | None:
    """None when it is not installed."""
    if shutil.which("fio") is None:
        return None
    said = subprocess.run(["fio", "--version"], check=True, capture_output=True, text=True).stdout
    return said.strip().removeprefix("fio-")


def jobs(*wanted: Sequence[str]) -> list[dict[str, Any]]:
    """What fio says of jobs that run at once, direct and by libaio; each by its options. Raises CalledProcessError."""
    command = ["fio", "--direct=1", "--ioengine=libaio", "--output-format=json"]
    for number, options in enumerate(wanted):
        command += [f"--name=bench{number}", *options]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # Its remarks come before the JSON.
    found: list[dict[str, Any]] = json.loads(said[said.index("{") :])["jobs"]
    return found


def read_rate(device: Path, *, read_bytes: int, size_bytes: int, depth: int, is_random: bool = False) -> float:
    """Bytes a second: direct reads of ``size_bytes``, ``depth`` in flight. Raises UsageError with fio's words."""
    options = (f"--rw={'randread' if is_random else 'read'}", f"--filename={device}", "--readonly")
    try:
        (done,) = jobs((*options, f"--bs={size_bytes}", f"--size={read_bytes}", f"--iodepth={depth}"))
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).strip().splitlines()
        raise UsageError(
            f"fio cannot read {device}: {said[-1] if said else error.returncode}",
            remedy="Name a disk or file that allows direct reads; tmpfs does not.",
        ) from None
    return float(done["read"]["bw_bytes"])
