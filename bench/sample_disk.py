"""The disk that everybody copies: an ext4 image of this machine's own files, and its next state.

Seeded; 55-65 % full; compresses 2-3 times at zstd level 1. The next state differs in 2 % of
the disk, in scattered regions of 64 KiB to 1 MiB, listed exactly.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mover.errors import UsageError

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
ALIGN = 4 * KIB

SHARES = {"programs": 0.29, "python": 0.07, "logs": 0.08, "pages": 0.06, "random": 0.08}
"""Share of the disk by kind of content; together 60 %."""
PACKED = {".jar", ".gz", ".zip", ".xz", ".whl", ".png", ".jpg", ".zst", ".bz2"}
"""Left out: the random part stands for what is compressed already."""
PROGRAMS = ("/usr/bin", "/usr/sbin", "/usr/lib", "/usr/local", "/opt")


@dataclass(frozen=True)
class SampleDisk:
    """Two states of one disk: raw images of the same size."""

    first: Path
    second: Path
    size_bytes: int
    regions: list[tuple[int, int]]
    """(offset, length) of what differs, ascending, disjoint."""


def build(folder: Path, *, size_bytes: int, seed: int) -> SampleDisk:
    """Make the images below ``folder``, or take those of a former run with the same seed and size."""
    folder.mkdir(parents=True, exist_ok=True)
    first, second, notes = folder / "first.raw", folder / "second.raw", folder / "sample.json"
    wanted = {"seed": seed, "size_bytes": size_bytes}
    if notes.exists():
        found = json.loads(notes.read_text())
        if {key: found[key] for key in wanted} == wanted:
            return SampleDisk(first, second, size_bytes, [(int(a), int(b)) for a, b in found["regions"]])
    staging = folder / "staging"
    shutil.rmtree(staging, ignore_errors=True)
    _fill(staging, size_bytes, random.Random(seed))
    first.unlink(missing_ok=True)
    with first.open("wb") as image:
        image.truncate(size_bytes)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-d", str(staging), str(first)], check=True)
    shutil.rmtree(staging)
    second.unlink(missing_ok=True)
    subprocess.run(["cp", "--reflink=auto", "--sparse=always", str(first), str(second)], check=True)
    regions = _change(second, size_bytes, random.Random(seed + 1))
    notes.write_text(json.dumps({**wanted, "regions": regions}))
    return SampleDisk(first, second, size_bytes, regions)


def _fill(staging: Path, size_bytes: int, dice: random.Random) -> None:
    budgets = {kind: int(share * size_bytes) for kind, share in SHARES.items()}
    left = _copy_tree(PROGRAMS, staging / "programs", budgets["programs"], dice)
    left += _copy_tree([sysconfig.get_path("stdlib")], staging / "python", budgets["python"], dice)
    makers = {"logs": log_file, "pages": page_file, "random": lambda d: d.randbytes(4 * MIB)}
    budgets["logs"] += left // 2
    budgets["random"] += left // 4
    for kind, make in makers.items():
        (staging / kind).mkdir(parents=True)
        number, written = 0, 0
        while written < budgets[kind]:
            content = make(dice)
            (staging / kind / f"{number:05}").write_bytes(content)
            number, written = number + 1, written + len(content)


def _copy_tree(sources: object, target: Path, budget: int, dice: random.Random) -> int:
    """Copy regular files until the budget is used; return what is left of it."""
    files = sorted(path for source in sources for path in files_below(Path(source)))
    dice.shuffle(files)
    for path in files:
        size = path.stat().st_size
        if size > budget:
            continue
        place = target / str(path).lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
        budget -= size
    return budget


def files_below(source: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(source):
        for name in names:
            path = Path(folder, name)
            if path.suffix in PACKED or path.is_symlink() or not path.is_file():
                continue
            if 0 < path.stat().st_size < 64 * MIB:
                yield path


def log_file(dice: random.Random) -> bytes:
    """Lines of a web server."""
    words = [
        f"/{dice.randrange(1 << 20):x}/{name}" for name in ("index", "login", "cart", "img", "api") for _ in "1234"
    ]
    start = dice.randrange(1 << 30)
    lines = (
        f"10.{dice.randrange(9)}.{dice.randrange(256)}.{dice.randrange(256)} - - [{start + n // 7}] "
        f'"GET {dice.choice(words)}?id={dice.randrange(10**9)} HTTP/1.1" {dice.choice((200, 200, 304, 404))} '
        f'{dice.randrange(90000)} "Mozilla/5.0 (X11; Linux x86_64)"\n'
        for n in range(30_000)
    )
    return "".join(lines).encode()


def page_file(dice: random.Random) -> bytes:
    """8 KiB pages of a database: header, rows of small numbers and names, free space."""
    pages = []
    for number in range(512):
        rows = b"".join(
            number.to_bytes(4, "little")
            + dice.randrange(1 << 20).to_bytes(8, "little")
            + dice.randbytes(6)
            + b"customer\0"
            for _ in range(dice.randrange(120, 280))
        )
        pages.append((b"PAGE" + number.to_bytes(4, "little") + rows).ljust(8 * KIB, b"\0")[: 8 * KIB])
    return b"".join(pages)


def _change(image: Path, size_bytes: int, dice: random.Random) -> list[tuple[int, int]]:
    """Overwrite scattered regions, 2 % of the disk; most of them where data was."""
    wanted, changed = size_bytes // 50, 0
    taken: list[tuple[int, int]] = []
    with image.open("r+b") as disk:
        while changed < wanted:
            length = dice.randrange(64 * KIB, MIB + 1, ALIGN)
            offset = dice.randrange(0, size_bytes - length, ALIGN)
            if dice.random() < 0.85:
                offset = _next_data(disk.fileno(), offset)
            end = offset + length
            if end > size_bytes or any(offset <= b + n and b <= end for b, n in taken):
                continue
            disk.seek(offset)
            disk.write(dice.randbytes(length) if dice.random() < 0.3 else log_file(dice)[:length].ljust(length, b"-"))
            taken.append((offset, length))
            changed += length
    return sorted(taken)


def _next_data(handle: int, offset: int) -> int:
    try:
        return os.lseek(handle, offset, os.SEEK_DATA) // ALIGN * ALIGN
    except OSError:  # a hole up to the end
        return offset


# --- where the images live


@contextmanager
def reflink_folder(folder: Path, *, size_bytes: int) -> Iterator[Path]:
    """A mounted XFS with reflinks on a loop file when root, else the folder itself.

    What a run that was killed left mounted and attached there is let go of first. Raises UsageError
    while another run uses the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0 or shutil.which("mkfs.xfs") is None:
        yield folder
        return
    image, mount = folder / "bench.xfs", folder / "xfs"
    mount.mkdir(exist_ok=True)
    with _held_alone(folder):
        _let_go(image, mount)
        if not image.exists():
            with image.open("wb") as file:
                file.truncate(size_bytes)
            subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", str(image)], check=True)
        # Undone even if it is not mounted: Ctrl-C may come when it is, and we have not heard of it.
        with attached(image, read_only=False) as device, _undoing(lambda: _unmount(mount)):
            subprocess.run(["mount", str(device), str(mount)], check=True)
            yield mount


@contextmanager
def _undoing(undo: Callable[[], None]) -> Iterator[None]:
    """Undo after the block. Where that failed, its error is raised; a program that cannot undo then says so itself."""
    try:
        yield
    except BaseException:  # Ctrl-C too: a mount or loop device must not stay; raised again
        with suppress(subprocess.CalledProcessError):
            undo()
        raise
    undo()


def _unmount(mount: Path) -> None:
    if mount.is_mount():
        subprocess.run(["umount", str(mount)], check=True)


def _detach(device: str) -> None:
    subprocess.run(["losetup", "--detach", device], check=True)


@contextmanager
def _held_alone(folder: Path) -> Iterator[None]:
    """By one run at a time; a killed one holds nothing."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"Another bench runs in {folder}", remedy="Name another --folder, or wait for it."
            ) from None
        yield
    finally:
        os.close(handle)


def _let_go(image: Path, mount: Path) -> None:
    """Of loop devices of files on the mount, of the mount, of the image's own loop device."""
    for device in loops_below(mount):
        _detach(device)
    _unmount(mount)
    for device, file in loops():
        if file == image.resolve():
            _detach(device)


def loops_below(folder: Path) -> list[str]:
    """Loop devices whose file is there."""
    return [device for device, file in loops() if file.is_relative_to(folder.resolve())]


def loops() -> Iterator[tuple[str, Path]]:
    """Loop devices in use, and their files."""
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            backing = file.read_text()
        except OSError:  # detached meanwhile
            continue
        yield f"/dev/{file.parents[1].name}", Path(backing.strip())


@contextmanager
def attached(image: Path, *, read_only: bool, offset: int = 0, size: int = 0) -> Iterator[Path]:
    """The image, or a part of it, as a loop device with direct I/O when root; else the image itself."""
    if os.geteuid() != 0:
        yield image
        return
    command = ["losetup", "--find", "--show", "--direct-io=on", f"--offset={offset}"]
    command += ["--read-only"] if read_only else []
    command += [f"--sizelimit={size}"] if size else []
    done = subprocess.run([*command, str(image)], check=True, capture_output=True, text=True)
    device = done.stdout.strip()
    with _undoing(lambda: _detach(device)):
        yield Path(device)


@contextmanager
def empty_target(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A fresh disk of zeroes, as a device."""
    image = folder / "target.raw"
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(size_bytes)
    try:
        with attached(image, read_only=False) as device:
            yield device
    finally:
        image.unlink()


def evict(*paths: Path) -> None:
    """Have the page cache forget these files and folders."""
    for path in paths:
        for file in path.rglob("*") if path.is_dir() else [path]:
            if file.is_file():
                handle = os.open(file, os.O_RDONLY)
                os.fdatasync(handle)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(handle)
