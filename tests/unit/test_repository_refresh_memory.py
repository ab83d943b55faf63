"""Following the store costs little, however many index objects there are: each backup brings one."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mover.repository import layout, segment
from mover.repository.index import LocalIndex
from mover.repository.keys import Secrets
from mover.repository.layout import Cipher
from mover.repository.refresh import IndexCache
from mover.repository.rows import PACK_ROW_DTYPE
from mover.storage.local import LocalStore

SECRETS = Secrets(b"r" * 16, Cipher.AES_256_GCM, b"k" * 16, b"i" * 32, {b"k" * 16: b"d" * 32})
OBJECTS = 20_000
EACH_BYTES = 64
"""Its name in the folder's list, its mark, and some room."""
FIXED_BYTES = 1 << 20
"""What a page of names and of sizes takes."""


async def test_a_look_at_an_index_that_is_cached_holds_about_the_names_of_its_objects(tmp_path: Path):
    names = [layout.index_name(f"{number:032x}", 0) for number in range(OBJECTS)]
    (tmp_path / "store/index").mkdir(parents=True)
    for name in names:
        (tmp_path / "store" / name).touch()
    local, store, helper = LocalIndex(tmp_path / "cache"), LocalStore(tmp_path / "store"), ThreadPoolExecutor(1)
    packs = np.zeros(OBJECTS, PACK_ROW_DTYPE)
    packs["reserved"] = np.arange(OBJECTS)
    keys, rows = np.zeros(0, np.uint64), np.zeros(0, segment.ROW_DTYPE)
    local.add([segment.Part(segment.names_of(names), packs, keys, rows, np.ones(OBJECTS, bool))])
    del names, packs
    cache = IndexCache(store, SECRETS, local, helper)
    tracemalloc.start()
    try:
        await cache.refresh()
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        cache.close()
        await store.close()
    assert len(local.segments) == 1
    assert cache.problems == {}
    assert held < FIXED_BYTES // 4
    assert peak < FIXED_BYTES + OBJECTS * EACH_BYTES
