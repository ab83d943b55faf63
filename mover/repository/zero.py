"""Is a block all zeroes? Asked of every block, so it must cost nothing."""

from __future__ import annotations

import ctypes

import numpy as np

_HEAD_BYTES = 8
_HEAD = bytes(_HEAD_BYTES)

_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_memcmp.restype = ctypes.c_int


def is_zero(data: memoryview) -> bool:
    """Whether a contiguous view of bytes holds only zeroes.

    Nearly all data ends at the first eight bytes. The rest is compared with itself, shifted
    by eight, outside the GIL (a memoryview compared with bytes goes element by element).
    """
    if bytes(data[:_HEAD_BYTES]) != _HEAD[: len(data)]:
        return False
    if len(data) <= _HEAD_BYTES:
        return True
    address = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    return bool(_memcmp(address, address + _HEAD_BYTES, len(data) - _HEAD_BYTES) == 0)
