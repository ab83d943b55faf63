"""One heap for all threads, memory used again and given back, where the C library is glibc."""

from __future__ import annotations

import asyncio
import platform
import re
import subprocess
import sys

import pytest

from mover.config import DataSettings
from mover.pipeline import workers as module
from mover.pipeline.flow import Budget
from mover.pipeline.workers import Workers

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library does it its own way")

THREADS = """
import ctypes, sys, threading
from mover.heap import prepare_heap
if sys.argv[1] == "shared":
    assert prepare_heap()
libc, together = ctypes.CDLL(None), threading.Barrier(4)
libc.malloc.restype = ctypes.c_void_p
def work():
    libc.malloc(ctypes.c_size_t(1000))
    together.wait()
threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc.malloc_stats()
"""


FREED = """
import ctypes
from mover.cli.trial import memory_bytes
from mover.heap import give_back_memory, prepare_heap
prepare_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
pieces = [libc.malloc(ctypes.c_size_t(60_000)) for _ in range(1000)]
[ctypes.memset(piece, 1, 60_000) for piece in pieces]
[libc.free(piece) for piece in pieces[:-1]]
kept = memory_bytes()
assert give_back_memory()
print(kept - memory_bytes())
"""


AGAIN = """
import ctypes, resource
from mover.heap import prepare_heap
assert prepare_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def faults_of_a_piece():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    piece = libc.malloc(ctypes.c_size_t(8 << 20))
    ctypes.memset(piece, 1, 8 << 20)
    libc.free(piece)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults_of_a_piece(), faults_of_a_piece())
"""

SMALL = """
import ctypes
import numpy as np
from mover.config import DataSettings
from mover.pipeline.flow import Budget
from mover.pipeline.workers import Workers

class Used(ctypes.Structure):
    _fields_ = [(str(number), ctypes.c_size_t) for number in range(10)]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Used
def growth(work):
    before = getattr(libc.mallinfo2(), "7")
    work()
    return getattr(libc.mallinfo2(), "7") - before
def all_sizes():
    [np.empty(size, np.uint8) for size in range(1, 1024) for _ in range(7)]
with Workers(DataSettings(), Budget(1 << 30)) as workers:
    print(growth(all_sizes))
"""


@glibc
def test_what_numpy_keeps_of_small_arrays_is_there_from_the_start():
    run = subprocess.run([sys.executable, "-c", SMALL], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 300_000


@glibc
def test_the_memory_of_a_piece_serves_the_next_one():
    run = subprocess.run([sys.executable, "-c", AGAIN], capture_output=True, text=True, check=True)
    first, second = map(int, run.stdout.split())
    assert second < 4 <= first


@glibc
def test_free_memory_below_what_is_in_use_goes_back_too():
    run = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    assert int(run.stdout) > 50_000_000


async def test_memory_goes_back_when_the_last_disk_ends(monkeypatch):
    calls = []
    monkeypatch.setattr(module, "give_back_memory", lambda: calls.append(1))
    with Workers(DataSettings(), Budget(1 << 30)) as workers:
        async with workers.one_disk():
            async with workers.one_disk():
                pass
            assert not calls
        assert len(calls) == 1
        with pytest.raises(asyncio.CancelledError):
            async with workers.one_disk():
                raise asyncio.CancelledError
    assert len(calls) == 2


@glibc
def test_threads_share_one_heap():
    assert heaps("own") > 1
    assert heaps("shared") == 1


def heaps(how):
    run = subprocess.run([sys.executable, "-c", THREADS, how], capture_output=True, text=True, check=True)
    return len(re.findall(r"^Arena \d+:", run.stderr, re.MULTILINE))
