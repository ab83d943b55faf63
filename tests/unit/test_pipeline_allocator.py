"""One heap for all threads, where the C library is glibc."""

from __future__ import annotations

import platform
import re
import subprocess
import sys

import pytest

THREADS = """
import ctypes, sys, threading
from mover.pipeline.allocator import share_one_heap
if sys.argv[1] == "shared":
    assert share_one_heap()
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has no such heaps")
def test_threads_share_one_heap():
    assert heaps("own") > 1
    assert heaps("shared") == 1


def heaps(how):
    run = subprocess.run([sys.executable, "-c", THREADS, how], capture_output=True, text=True, check=True)
    return len(re.findall(r"^Arena \d+:", run.stderr, re.MULTILINE))
