"""A device: a local block device proven to be one attachment, opened once.

Reads and writes are plain blocking calls for plain threads; several threads may use one
device at a time. Offsets, lengths and buffer addresses are multiples of ``sector_bytes``
(a last unaligned tail of a file excepted: the device deals with it).
"""

from __future__ import annotations

from typing import Protocol


class ReadableDevice(Protocol):
    @property
    def name(self) -> str:
        """For people: path and identity."""

    @property
    def size_bytes(self) -> int: ...

    @property
    def sector_bytes(self) -> int:
        """Logical sector size: the alignment that direct I/O needs (512 or 4096)."""

    def read_into(self, buffer: memoryview, offset_bytes: int) -> None:
        """Fill the buffer wholly. Raises DeviceFault with the exact range that failed."""

    def close(self) -> None:
        """Idempotent; waits for no reader, so end them first."""


class WritableDevice(ReadableDevice, Protocol):
    def write_from(self, buffer: memoryview, offset_bytes: int) -> None:
        """Write it wholly. Raises DeviceFault with the exact range that failed."""

    def flush(self) -> None:
        """Everything written is on the medium when this returns."""
