"""The first file system of a guest: this Python, the modules that a program imports, and kernel modules; no more.

Everything lies at the path that it has here, as it is here: what runs in the guest is what is tested.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from tests.support.source import ROOT

_LIST = """
import encodings.ascii, importlib, json, sys
importlib.import_module(sys.argv[1])
files = {getattr(module, name, None) for module in list(sys.modules.values()) for name in ("__file__", "__cached__")}
with open("/proc/self/maps") as maps:
    files |= {line.split(maxsplit=5)[5].strip() for line in maps if "/" in line}
json.dump([sys._base_executable, sys.path, sorted(file for file in files if file)], sys.stdout)
"""
_INIT = """#!{python} -SEs
import sys
sys.path[:] = {path!r}
from {program} import main
main()
"""
_LOADER = "/lib64/ld-linux-x86-64.so.2"


def build(archive: Path, *, program: str, kernel_modules: Path, load: Iterable[str]) -> None:
    """Write the archive. program: module whose ``main()`` is the guest's first process.

    load: names of kernel modules; they and what they need lie in ``/modules``, named so that
    their order is the one in which they can be loaded.
    """
    command = [sys.executable, "-c", _LIST, program]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=60)
    python, path, files = json.loads(listed.stdout)
    own = archive.with_suffix(".tree")
    for folder in ("proc", "sys", "dev", "tmp", "mnt", "modules"):
        (own / folder).mkdir(parents=True)
    for number, module in enumerate(_in_order(kernel_modules, load)):
        shutil.copy(module, own / "modules" / f"{number:02}-{module.name}")
    init = own / "init"
    path = [str(ROOT), *(place for place in path if place)]
    init.write_text(_INIT.format(python=python, path=path, program=program))
    init.chmod(0o755)
    shared = _closed(Path(file) for file in (*files, python, _LOADER, *_version_names(files)))
    with archive.open("wb") as out:
        _pack(Path("/"), shared, out)
        _pack(own, [file.relative_to(own) for file in sorted(own.rglob("*"))], out)
    shutil.rmtree(own)


def _in_order(folder: Path, names: Iterable[str]) -> list[Path]:
    """What a module needs stands before it."""
    files = {file.stem.replace("-", "_"): file for file in folder.rglob("*.ko")}
    order: dict[Path, None] = {}

    def add(name: str) -> None:
        file = files[name.replace("-", "_")]
        needs = re.search(rb"\0depends=([^\0]*)\0", file.read_bytes())
        for needed in needs[1].decode().split(",") if needs else []:
            if needed:
                add(needed)
        order[file] = None

    for name in names:
        add(name)
    return list(order)


def _version_names(files: Iterable[str]) -> Iterator[str]:
    """A mapped library is known by its file; programs ask for it by a link beside it."""
    for file in {Path(file) for file in files if ".so" in file}:
        for other in file.parent.glob(file.name.split(".so")[0] + ".so*"):
            if other.is_symlink() and other.resolve() == file.resolve():
                yield str(other)


def _closed(files: Iterable[Path]) -> list[Path]:
    """The files, the links on their way and the folders above, relative to "/", each after its folder."""
    found: set[Path] = set()
    for file in files:
        here, ahead = Path("/"), list(file.parts[1:])
        while ahead:
            here = here / ahead.pop(0)
            if here.name == "..":
                here = here.parent.parent
            elif here.is_symlink():
                found.add(here)
                link = here.readlink()
                here = Path("/") if link.is_absolute() else here.parent
                ahead = [part for part in link.parts if part != "/"] + ahead
            elif here.exists():
                found.add(here)
    return [place.relative_to("/") for place in sorted(found)]


def _pack(top: Path, files: Iterable[Path], out: BinaryIO) -> None:
    names = b"".join(bytes(file) + b"\0" for file in files)
    command = ["cpio", "--create", "--null", "--format=newc", "--quiet", "--owner=0:0", f"--directory={top}"]
    subprocess.run(command, input=names, stdout=out, check=True, timeout=60)
