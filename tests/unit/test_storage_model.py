"""Any history of calls leaves a folder and a plain dictionary with the same objects and answers."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from mover.errors import MoverError
from mover.storage.local import LocalStore
from mover.storage.memory import MemoryStore
from mover.storage.protocol import Store

NAMES = ("a", "a-b", "a.b", "b/a", "b/a-0", "b/c/d", "b/c/e", "b-/x", "b0")
MEMORY = "/dev/shm"
"""A disk would sync each of some hundred puts."""
NAME = st.sampled_from(NAMES)
DATA = st.lists(st.binary(max_size=5), max_size=3)
PREFIX = st.sampled_from(("", "a", "b", "b/", "b/a", "b/c/", "b/c/d", "x/"))
CALL = st.one_of(
    st.tuples(st.just("create"), NAME, DATA),
    st.tuples(st.just("replace"), NAME, DATA),
    st.tuples(st.just("get"), NAME),
    st.tuples(st.just("get_range"), NAME, st.integers(0, 9), st.integers(0, 9)),
    st.tuples(st.just("info"), NAME),
    st.tuples(st.just("list"), PREFIX),
    st.tuples(st.just("delete"), NAME),
)


async def answer(store: Store, call: tuple[object, ...]) -> object:
    """What the store said, without what may differ (times, its own name)."""
    verb, *arguments = call
    try:
        if verb == "list":
            return [(info.name, info.size_bytes) async for info in store.list(str(arguments[0]))]
        found = await getattr(store, str(verb))(*arguments)
    except MoverError as error:
        return error.code, error.facts
    if verb == "info":
        return found and (found.name, found.size_bytes)
    return bytes(found) if found is not None else None


@settings(max_examples=40, deadline=None)
@given(st.lists(CALL, max_size=25))
def test_folder_and_memory_answer_alike(history: list[tuple[object, ...]]) -> None:
    async def run(folder: Path) -> None:
        local, memory = LocalStore(folder, threads=1), MemoryStore()
        for call in history:
            assert await answer(local, call) == await answer(memory, call), call
        await local.close()

    with tempfile.TemporaryDirectory(dir=MEMORY if Path(MEMORY).is_dir() else None) as folder:
        asyncio.run(run(Path(folder)))
        assert not [path for path in Path(folder).rglob(".*") if path.is_file()]
