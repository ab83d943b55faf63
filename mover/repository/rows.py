"""The rows of ``layout`` as numpy sees them: tables of packs and index objects are read and written as arrays.

Apart from ``layout``, so that who reads no table (``mover points``) starts without numpy.
"""

from __future__ import annotations

import numpy as np

PACK_ROW_DTYPE = np.dtype(
    [("pack_id", "u1", 32), ("key_id", "u1", 16), ("pack_bytes", "<u8"), ("records", "<u4"), ("reserved", "<u4")]
)
TABLE_ROW_DTYPE = np.dtype(
    [
        ("key", ">u8"),
        ("tail", "u1", 24),
        ("offset", "<u4"),
        ("stored", "<u4"),
        ("plain", "<u4"),
        ("codec", "u1"),
        ("kind", "u1"),
        ("reserved", "<u2"),
    ]
)
INDEX_ROW_DTYPE = np.dtype(
    [("key", ">u8"), ("tail", "u1", 24), ("pack", "<u4"), ("offset", "<u4"), ("stored", "<u4"), ("plain", "<u4")]
)
"""`key` is the first 8 bytes of the id as a number, so that ids sort as their bytes do."""
