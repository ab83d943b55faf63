"""A writer of the folder store, killed at each of its system calls: nothing is visible, or the whole object."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mover.storage.local import LocalStore

NAME, BESIDE = "packs/0a/object", "points/beside"
OLD, NEW = b"old" * 1000, b"new" * 10_000

# Forks one writer for each of its calls in turn, until one lives to its end; the nth works in folder n and
# is killed before its nth call. A write may be cut at a seeded place first: kills come in the middle, too.
_WRITERS = """
import asyncio, errno, itertools, os, random, signal, sys, threading
from pathlib import Path
from mover.storage import durable
from mover.storage.local import LocalStore

root, verb, without = Path(sys.argv[1]), sys.argv[2], sys.argv[3].split()
NAME, BESIDE, OLD, NEW = sys.argv[4], sys.argv[5], sys.argv[6].encode(), sys.argv[7].encode()
dice = random.Random(verb)
calls = itertools.count(1)

def refused(*_, **__):
    raise OSError(errno.EOPNOTSUPP, "not on this file system")

def counted(name, call, kill_at):
    def counting(*args, **kwargs):
        if not threading.current_thread().name.startswith("store"):
            return call(*args, **kwargs)
        if name == "writev" and len(args[1][0]) > 4096:
            args = (args[0], [args[1][0][: dice.randint(1, len(args[1][0]))]])
        if next(calls) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    return counting

async def write(folder, kill_at):
    store = LocalStore(folder, threads=1)
    await store.create(BESIDE, [OLD])
    if verb == "replace":
        await store.replace(NAME, [OLD])
    for place, name in [(os, name) for name in
            "open close writev fdatasync posix_fadvise link rename unlink mkdir fsync stat".split()] + [
            (durable, "_rename_noreplace")]:
        call = refused if name in without else getattr(place, name)
        setattr(place, name, counted(name, call, kill_at))
    await getattr(store, verb)(NAME, [NEW[:1000], NEW[1000:]])

for kill_at in itertools.count(1):
    folder = root / str(kill_at)
    folder.mkdir()
    child = os.fork()
    if child == 0:
        asyncio.run(write(folder, kill_at))
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status):
        sys.exit(os.WEXITSTATUS(status))
"""


def killed(root: Path, verb: str, without: str) -> list[Path]:
    """The folders of writers killed ever later; the last one lived."""
    words = [str(root), verb, without, NAME, BESIDE, OLD.decode(), NEW.decode()]
    subprocess.run([sys.executable, "-c", _WRITERS, *words], check=True, cwd=Path(__file__).parents[2])
    return sorted(root.iterdir(), key=lambda folder: int(folder.name))


async def left(folder: Path) -> bytes | None:
    """The object that a killed writer left, read as the next process reads it; None for none."""
    store = LocalStore(folder)
    assert await store.get(BESIDE) == OLD
    names = [info.name async for info in store.list("")]
    assert set(names) <= {NAME, BESIDE}
    found = await store.get(NAME) if NAME in names else None
    await store.close()
    return found


async def written_again(folder: Path, verb: str) -> bytes:
    """What is there after the writer's next start."""
    store = LocalStore(folder)
    await getattr(store, verb)(NAME, [NEW])
    try:
        return await store.get(NAME)
    finally:
        await store.close()


@pytest.mark.parametrize(
    ("verb", "without"),
    [("create", ""), ("create", "link"), ("create", "link _rename_noreplace"), ("replace", "")],
    ids=["link", "rename-without-replace", "look-then-rename", "replace"],
)
async def test_a_writer_killed_at_any_call_leaves_nothing_or_all(tmp_path: Path, verb: str, without: str) -> None:
    folders = killed(tmp_path, verb, without)
    found = [await left(folder) for folder in folders]
    before = OLD if verb == "replace" else None
    turn = found.index(NEW)
    assert found == [before] * turn + [NEW] * (len(found) - turn)
    assert turn > 3, "killed before it was published"
    assert turn < len(found) - 2, "and after it"
    assert {await written_again(folder, verb) for folder in folders} == {NEW}
