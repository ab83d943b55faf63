"""The same work by others, as their users would run it: restic, borg, benji, ``zstd | dd``, qemu-img.

Each operation is one command line; the caller evicts caches before and measures. Versions are
recorded. Nothing is installed unless asked for.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

BORG = "borgbackup==1.4.*"
BORG_BUILDS_WITH = (
    "build-essential",
    "pkg-config",
    "libacl1-dev",
    "liblz4-dev",
    "libssl-dev",
    "libxxhash-dev",
    "libzstd-dev",
)
"""PyPI has borg as source only."""
BENJI = ("benji==0.17.0", "setuptools<60", "zstandard")
BENJI_PYTHONS = ("3.9", "3.8")
"""benji 0.17 does not run on newer ones."""


@dataclass(frozen=True)
class Disks:
    """The devices of one round; ``hints``: the changed regions in the form of ``rbd diff``."""

    first: Path
    second: Path
    hints: Path


class Peer(Protocol):
    """One peer with its repository: each operation as a command line, None where it has none."""

    name: str
    repository: Path
    env: dict[str, str]

    def is_here(self) -> bool: ...

    def version(self) -> str: ...

    def prepare(self) -> str: ...

    def full(self, disks: Disks) -> str: ...

    def again(self, disks: Disks) -> str | None: ...

    def incremental(self, disks: Disks) -> str | None: ...

    def restore(self, target: Path) -> str:
        """The second state onto an empty device."""


class Restic:
    name = "restic"

    def __init__(self, _: Path, folder: Path) -> None:
        self.repository = folder / self.name
        self.env = {"RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": str(folder / "restic-cache")}

    def is_here(self) -> bool:
        return shutil.which("restic") is not None

    def version(self) -> str:
        return _first_line("restic version")

    def prepare(self) -> str:
        return f"restic -q -r {self.repository} init"

    def full(self, disks: Disks) -> str:
        return self._backup(disks.first)

    def again(self, disks: Disks) -> str:
        return self._backup(disks.first)

    def incremental(self, disks: Disks) -> str:
        return self._backup(disks.second)

    def _backup(self, device: Path) -> str:
        store = f"restic -q -r {self.repository} backup --stdin --stdin-filename disk.raw"
        return f"dd if={device} bs=1M iflag=direct status=none | {store}"

    def restore(self, target: Path) -> str:
        return f"restic -q -r {self.repository} dump latest disk.raw | {_write(target)}"


class Borg:
    """Fixed chunks of 1 MiB, zstd 1, no encryption: the like of ours, less AES."""

    name = "borg"

    def __init__(self, tools: Path, folder: Path) -> None:
        self.repository = folder / self.name
        self.borg = tools / "borg" / "bin" / "borg"
        self.env = {
            "BORG_BASE_DIR": str(folder / "borg-base"),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
            "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
        }

    def is_here(self) -> bool:
        return self.borg.exists()

    def version(self) -> str:
        return _first_line(f"{self.borg} --version")

    def prepare(self) -> str:
        return f"{self.borg} init -e none {self.repository}"

    def full(self, disks: Disks) -> str:
        return self._create("full", disks.first)

    def again(self, disks: Disks) -> str:
        return self._create("again", disks.first)

    def incremental(self, disks: Disks) -> str:
        return self._create("incremental", disks.second)

    def _create(self, name: str, device: Path) -> str:
        options = "--read-special -C zstd,1 --chunker-params fixed,1048576"
        return f"{self.borg} create {options} {self.repository}::{name} {device}"

    def restore(self, target: Path) -> str:
        return f"{self.borg} extract --stdout {self.repository}::incremental | {_write(target)}"


class Benji:
    """With hints: it reads only the changed regions, as we do."""

    name = "benji"

    def __init__(self, tools: Path, folder: Path) -> None:
        self.repository = folder / self.name
        self.env: dict[str, str] = {}
        self.benji = tools / "benji" / "bin" / "benji"
        self.config = folder / "benji.json"

    def is_here(self) -> bool:
        return self.benji.exists()

    def version(self) -> str:
        return _first_line(f"{self.benji} --version")

    def prepare(self) -> str:
        config = {
            "configurationVersion": "1",
            "databaseEngine": f"sqlite:///{self.repository}/benji.sqlite",
            "defaultStorage": "folder",
            "blockSize": 1 << 20,
            "hashFunction": "BLAKE2b,digest_bits=256",
            "storages": [
                {
                    "name": "folder",
                    "storageId": 1,
                    "module": "file",
                    "configuration": {
                        "path": str(self.repository / "data"),
                        "simultaneousReads": 2,
                        "simultaneousWrites": 2,
                        "activeTransforms": ["zstd"],
                    },
                }
            ],
            "transforms": [{"name": "zstd", "module": "zstd", "configuration": {"level": 1}}],
            "ios": [
                {"name": "file", "module": "file", "configuration": {"simultaneousReads": 2, "simultaneousWrites": 2}}
            ],
        }
        self.config.write_text(json.dumps(config))
        return f"mkdir -p {self.repository}/data && {self._call} database-init"

    @property
    def _call(self) -> str:
        return f"{self.benji} -c {self.config} --log-level ERROR"

    def full(self, disks: Disks) -> str:
        return f"{self._call} backup -u full file:{disks.first} disk"

    def again(self, disks: Disks) -> str:
        return f"{self._call} backup -u again file:{disks.first} disk"

    def incremental(self, disks: Disks) -> str:
        return f"{self._call} backup -u incremental -f full -r {disks.hints} file:{disks.second} disk"

    def restore(self, target: Path) -> str:
        return f"{self._call} restore -s -f incremental file:{target}"


class ZstdDd:
    """No repository at all: the least that any backup must do."""

    name = "zstd|dd"

    def __init__(self, _: Path, folder: Path) -> None:
        self.repository = folder / "zstd-dd"
        self.env: dict[str, str] = {}
        self.image = self.repository / "disk.zst"

    def is_here(self) -> bool:
        return shutil.which("zstd") is not None

    def version(self) -> str:
        return _first_line("zstd --version")

    def prepare(self) -> str:
        return f"mkdir -p {self.repository}"

    def full(self, disks: Disks) -> str:
        return f"dd if={disks.second} bs=1M iflag=direct status=none | zstd -q -1 -T2 -f -o {self.image}"

    def again(self, _: Disks) -> None:
        return None

    def incremental(self, _: Disks) -> None:
        return None

    def restore(self, target: Path) -> str:
        return f"zstd -q -d -c {self.image} | {_write(target)} conv=sparse"


class QemuImg:
    """A compressed qcow2 file: the usual export of a disk. Eight coroutines, zstd, past the page cache."""

    name = "qemu-img"

    def __init__(self, _: Path, folder: Path) -> None:
        self.repository = folder / self.name
        self.env: dict[str, str] = {}
        self.image = self.repository / "disk.qcow2"

    def is_here(self) -> bool:
        return shutil.which("qemu-img") is not None

    def version(self) -> str:
        return _first_line("qemu-img --version")

    def prepare(self) -> str:
        return f"mkdir -p {self.repository}"

    def full(self, disks: Disks) -> str:
        made = "-f raw -O qcow2 -c -o compression_type=zstd"
        return f"qemu-img convert -T none -t none -m 8 -W {made} {disks.second} {self.image}"

    def again(self, _: Disks) -> None:
        return None

    def incremental(self, _: Disks) -> None:
        return None

    def restore(self, target: Path) -> str:
        onto = "-n --target-is-zero -f qcow2 -O raw"
        return f"qemu-img convert -T none -t none -m 8 -W {onto} {self.image} {target}"


def everyone(tools: Path, folder: Path) -> list[Peer]:
    """All peers, installed or not. tools: where ``install`` puts them; folder: for their repositories."""
    return [kind(tools, folder) for kind in (Restic, Borg, Benji, ZstdDd, QemuImg)]


def install(tools: Path) -> list[str]:
    """Install what is missing: restic and qemu-img by apt (root), borg and benji into environments in ``tools``."""
    problems = []
    for program, package in (("restic", "restic"), ("qemu-img", "qemu-utils")):
        if shutil.which(program) is None:
            problems += _try(program, ["apt-get", "install", "-y", "-q", "--no-install-recommends", package])
    if not (tools / "borg" / "bin" / "borg").exists():
        _try("borg", ["apt-get", "install", "-y", "-q", *BORG_BUILDS_WITH])  # without root: as far as it goes
        problems += _environment("borg", tools / "borg", sys.executable, BORG)
    if not (tools / "benji" / "bin" / "benji").exists():
        python = next((found for v in BENJI_PYTHONS if (found := _python(v))), None)
        if python is None:
            problems.append(f"benji: it needs Python {' or '.join(BENJI_PYTHONS)}")
        else:
            problems += _environment("benji", tools / "benji", python, *BENJI)
    return problems


def _python(version: str) -> str | None:
    found = shutil.which(f"python{version}")
    if found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
        return found
    return next(
        (str(path) for path in Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}")),
        None,
    )


def _environment(name: str, folder: Path, python: str, *packages: str) -> list[str]:
    problems = _try(name, [python, "-m", "venv", str(folder)])
    return problems or _try(name, [str(folder / "bin" / "pip"), "install", "-q", *packages])


def _try(name: str, command: list[str]) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True)
    return [f"{name}: {done.stderr.strip().splitlines()[-1:]}"] if done.returncode else []


def _first_line(command: str) -> str:
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    return next(iter((done.stdout or done.stderr).splitlines()), "unknown")


def _write(target: Path) -> str:
    return f"dd of={target} bs=1M iflag=fullblock oflag=direct status=none"
