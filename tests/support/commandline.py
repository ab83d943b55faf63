"""The real command line against a lab: in this process where that is the same, as a process where not."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from mover.lab.server import DiskSpec, Fault, Lab, LabOptions, VmSpec
from mover.program import app

MIB = 1 << 20
STORE, REPOSITORY = 5, 6
"""Exit codes."""
PASSPHRASE = "correct horse battery staple"
ONE = VmSpec(name="one", disks=(DiskSpec(size_bytes=8 * MIB),))
TWO = VmSpec(name="two", disks=(DiskSpec(size_bytes=4 * MIB), DiskSpec(size_bytes=8 * MIB)), guest_tools="vss")
TWIN = VmSpec(name="twin", disks=(DiskSpec(size_bytes=2 * MIB),))


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended. Its error is read off what a person sees."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error_code(self) -> str | None:
        found = re.search(r"^error: .*  \[([a-z.-]+)\]$", self.err, re.MULTILINE)
        return found[1] if found else None

    @property
    def remedy(self) -> str:
        found = re.search(r"^ *do: (.+)$", self.err, re.MULTILINE)
        return found[1] if found else ""

    def refuses(self, code: int, error_code: str, *words: str) -> None:
        """Assert a foreseen failure: family, code, remedy, words of it, no traceback."""
        said = f"exit {self.code}\n{self.out}\n{self.err}"
        assert self.code == code, said
        assert self.error_code == error_code, said
        assert self.remedy, said
        assert "Traceback" not in said, said
        for word in words:
            assert word in self.err, said


def invoke(*args: str, **environment: str) -> Outcome:
    """One command in this process; must be called outside of any event loop."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        result = CliRunner().invoke(app, [str(arg) for arg in args], env={"MOVER_CONFIG": "", **environment})
    finally:
        root.handlers[:], root.level = handlers, level
        # The engine's library keeps a handler on the standard error of its first run, closed by now.
        logging.getLogger("dbos").handlers.clear()
    return Outcome(result.exit_code, result.stdout, result.stderr)


class Desk:
    """A lab, and a person before it. Every Desk has its own cluster; ``fresh`` gives a new node and repository."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        self._untouched = self._things()
        self._number = 0
        self.fresh()

    def fresh(self, *, passphrase: str | None = None) -> None:
        """A new state folder and an empty repository, unencrypted unless told: keys cost time."""
        self._number += 1
        self.place = self.folder / str(self._number)
        self.place.mkdir()
        self.repository = self.place / "repository"
        self.config = self.place / "mover.yaml"
        self.settings: dict[str, Any] = {
            "state_dir": str(self.place / "state"),
            "node": {
                "device_root": str(self.lab.device_root),
                "allow_regular_files": not self.lab.has_real_devices,
                "device_timeout": "1s",
            },
            "prism": {
                "url": self.lab.element_url,
                "username": self.lab.username,
                "password": self.lab.password,
                "ca_file": str(self.lab.ca_file),
                "retry_budget": "1s",
                "task_timeout": "5s",
            },
            "repository": {"url": str(self.repository)},
            "limits": {"container_free": "1GiB", "store_free": "1MiB"},
        }
        if passphrase:
            self.settings["repository"]["passphrase"] = passphrase
        self.write()
        done = self.run("init", *([] if passphrase else ["--no-encryption"]))
        assert done.code == 0, done.err

    def write(self, **changes: Any) -> Path:
        """Write the settings, with sections changed."""
        merged = {key: dict(value) if isinstance(value, dict) else value for key, value in self.settings.items()}
        for name, value in changes.items():
            merged[name] = {**merged.get(name, {}), **value} if isinstance(value, dict) else value
        self.config.write_text(yaml.safe_dump(merged))
        return self.config

    def run(self, *args: str) -> Outcome:
        """A command in this process."""
        command, *rest = args
        words = [command, rest.pop(0)] if command == "job" or rest[:1] in (["show"], ["delete"]) else [command]
        return invoke(*words, "-c", self.config, *rest)

    def process(self, *args: str, **how: Any) -> Outcome:
        """A command as a process of its own, as a user starts it."""
        done = subprocess.run(
            self.command_line(*args), capture_output=True, text=True, timeout=60, env=self.environment, **how
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def command_line(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "mover", *args]

    @property
    def environment(self) -> dict[str, str]:
        """Where bytecode is not kept, each start would compile everything anew."""
        dropped = ("MOVER_", "PYTHONDONTWRITEBYTECODE")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
        bytecode = str(self.folder / "bytecode")
        return {**kept, "MOVER_CONFIG": str(self.config), "PYTHONPYCACHEPREFIX": bytecode, "PYTHONUNBUFFERED": "1"}

    def backed_up(self, *words: str) -> dict[str, Any]:
        """Back up, which must work; the report of the first VM."""
        done = self.run("backup", *words, "--json")
        assert done.code == 0, done.out
        return done.json["points"][0]

    def verified(self, point: str) -> None:
        """The point must still be whole."""
        done = self.run("verify", point)
        assert done.code == 0, done.err

    def points(self) -> list[str]:
        return [point["point"] for point in self.run("points", "--json").json["points"]]

    def act(self, action: str, **args: Any) -> None:
        """As an administrator."""
        asyncio.run(self.lab.administrator(action, **args))

    @contextmanager
    def fault(self, name: str, *, args: dict[str, Any] | None = None, **match: Any) -> Iterator[Fault]:
        """Armed for the block; it must have bitten. match: operation, vm, disk, nth, count."""
        fault = self.lab.faults.add(Fault(name=name, args=args or {}, **match))
        try:
            yield fault
        finally:
            self.lab.faults.disarm()
        assert fault.fired, f"{name} did not bite"

    def nothing_is_left(self, *, bases: int = 0) -> None:
        """Of ours on the cluster: only so many base snapshots of this node's jobs."""
        asyncio.run(self.lab.settle())
        left = self._things() - self._untouched
        snapshots = {thing for thing in left if thing[0] == "snapshot"}
        assert left == snapshots, left
        assert len(snapshots) == bases, snapshots

    def forget_cluster(self) -> None:
        """What is there now counts as somebody else's."""
        self._untouched = self._things()

    def _things(self) -> set[tuple[str, str]]:
        lab = self.lab
        proxy = next(vm for vm in lab.vms.values() if vm.uuid == lab.proxy_uuid)
        return {
            *(("snapshot", one.uuid) for one in lab.snapshots()),
            *(("device", uuid) for uuid in lab.plugged()),
            *(("disk of the proxy", str(disk.vmdisk_uuid)) for disk in proxy.disks),
            *(("vm", vm.uuid) for vm in lab.vms.values() if vm.name.startswith("mover-")),
        }


@contextmanager
def desk(folder: Path, certificates: Path, *, vms: tuple[VmSpec, ...] = (ONE, TWO), **wishes: Any) -> Iterator[Desk]:
    """A desk with a lab of its own: files for disks, no root needed."""
    tiny = (DiskSpec(size_bytes=MIB, content="empty"),)
    options = LabOptions(**{"use_loop": False, "proxy_disks": tiny, "certificate_dir": certificates, **wishes}, vms=vms)
    lab = asyncio.run(Lab.start(folder / "lab", options=options))
    try:
        yield Desk(lab, folder)
    finally:
        asyncio.run(lab.stop())


def flip(path: Path, at: int = -40) -> None:
    """One byte of a file, counted from its end."""
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.chmod(0o600)
    path.write_bytes(content)


def objects(desk: Desk, kind: str) -> list[Path]:
    """The files of a kind of object in the desk's repository."""
    return sorted(path for path in (desk.repository / kind).rglob("*") if path.is_file())
