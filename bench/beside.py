"""What is measured once, beside the rounds: many disks at once, an object store, and how soon a disk is read.

The object store is SeaweedFS on this machine: client and server share its cores.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from bench.driver import Ours
from bench.measure import MIB, Run
from bench.sample_disk import SampleDisk, attached, empty_target
from mover.lab.server import DiskSpec, Lab, LabOptions, VmSpec
from tests.support.servers import BUCKET, seaweed_in

ROOT = Path(__file__).resolve().parent.parent
MANY = 8
MANY_SHIFT = (128 << 20) + (96 << 10)


def many_disks(ours: Ours, disk: SampleDisk) -> Iterator[Run]:
    """Eight disks at once into one point, shifted against each other so that no block is known: for the memory."""
    ours.prepare()
    size = disk.size_bytes // 5 // MIB * MIB
    with ExitStack() as stack:
        devices = [
            stack.enter_context(attached(disk.first, read_only=True, offset=number * MANY_SHIFT, size=size))
            for number in range(MANY)
        ]
        yield ours.run(f"{MANY} disks at once", 0, devices=[str(device) for device in devices], point="0008")


def object_store(folder: Path, disk: SampleDisk, first: Path, second: Path, data: dict[str, Any]) -> Iterator[Run]:
    """Full, incremental and restore with the repository on S3."""
    place = folder / "s3"
    place.mkdir(exist_ok=True)
    with seaweed_in(place) as server:
        ours = Ours(f"s3://{BUCKET}/bench", folder / "s3-cache", data, server.options())
        ours.prepare()
        yield ours.run("S3 full", 0, devices=[str(first)], point="0001")
        changed = {"base": "0001", "regions": disk.regions}
        yield ours.run("S3 incremental", 0, devices=[str(second)], point="0002", **changed)
        with empty_target(folder, disk.size_bytes) as target:
            yield ours.run("S3 restore", 0, devices=[str(target)], point="0002")


def first_read(disks: int = 8) -> Iterator[Run]:
    """In the lab: from the answer to an attach to the first read of that disk; the median of some disks.

    As the report of a backup tells it: device found, proven and open (``find``), reads planned (``plan``).
    """
    with TemporaryDirectory() as place:
        vm = VmSpec(name="one", disks=tuple(DiskSpec(size_bytes=64 * MIB) for _ in range(disks)))
        lab = asyncio.run(Lab.start(Path(place) / "lab", options=LabOptions(vms=(vm,))))
        try:
            report = _backed_up(lab, Path(place))
        finally:
            asyncio.run(lab.stop())
    phases = [disk["seconds"] for disk in report["disks"]]
    waits = sorted(one["find"] + one["plan"] for one in phases)
    yield Run("mover", "attach to read", 0, waits[len(waits) // 2], 0, 0, more={"waits_s": waits})


def _backed_up(lab: Lab, folder: Path) -> dict[str, Any]:
    """The report of a backup by the command line, on a node of that lab."""
    config = folder / "mover.yaml"
    settings = {
        "state_dir": str(folder / "state"),
        "node": {"device_root": str(lab.device_root), "allow_regular_files": not lab.has_real_devices},
        "prism": {
            "url": lab.element_url,
            "username": lab.username,
            "password": lab.password,
            "ca_file": str(lab.ca_file),
        },
        "repository": {"url": str(folder / "repository")},
        "limits": {"store_free": "1MiB"},
    }
    config.write_text(yaml.safe_dump(settings))
    environment = {**os.environ, "MOVER_CONFIG": str(config)}
    said = ""
    for words in (["init", "--no-encryption"], ["backup", "one", "--json"]):
        command = [sys.executable, "-m", "mover", *words]
        said = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    point: dict[str, Any] = json.loads(said)["points"][0]
    return point
