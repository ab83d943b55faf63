"""What this machine and disk allow at most: each part of a full and of a restore by itself.

Reading and writing are fio's, 1 MiB, direct, depth 4; of a restore also both at once, since they share a
disk here. Computing is done on as many threads as cores, from memory to memory, with what a backup or restore must
do to each block of the disk that is not zero: keyed BLAKE3, zstd with the product's parameters, AES-256-GCM. The
largest part is the limit: the others may hide behind it.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from zstandard import ZstdDecompressor

from bench import fio
from mover.repository.codec import Codecs
from mover.repository.layout import Codec

_KEY = bytes(range(32))
_NONCE = bytes(12)
"""The same for all: nothing here is a secret, and the work is the same."""


@dataclass(frozen=True, slots=True)
class Part:
    """Seconds of one part by itself."""

    wall_s: float
    cpu_s: float


def read_alone(files: Sequence[Path], *, size_bytes: int = 0) -> Part:
    """The files one after the other, or so many bytes of one device."""
    return _fio([*_reading(files, size_bytes), "--readonly"])


def write_alone(device: Path, *, size_bytes: int) -> Part:
    """So many bytes from the device's beginning; without the sync at the end, which fio does not count."""
    return _fio(_writing(device, size_bytes))


def read_and_write(files: Sequence[Path], device: Path, *, written_bytes: int, read_bytes: int = 0) -> Part:
    """Both at once, until the later one is through. read_bytes: of one device, else whole files are read."""
    return _fio(_reading(files, read_bytes), _writing(device, written_bytes))


def _reading(files: Sequence[Path], size_bytes: int) -> list[str]:
    size = [f"--size={size_bytes}"] if size_bytes else []
    return ["--rw=read", f"--filename={':'.join(map(str, files))}", *size]


def _writing(device: Path, size_bytes: int) -> list[str]:
    return ["--rw=write", f"--filename={device}", f"--size={size_bytes}"]


def _fio(*wanted: list[str]) -> Part:
    usual = ["--bs=1M", "--iodepth=4", "--file_service_type=sequential"]
    parts = [_part(job) for job in fio.jobs(*([*usual, *options] for options in wanted))]
    return Part(max(part.wall_s for part in parts), sum(part.cpu_s for part in parts))


def _part(job: dict[str, Any]) -> Part:
    wall_s = job["job_runtime"] / 1000
    return Part(wall_s, wall_s * (job["usr_cpu"] + job["sys_cpu"]) / 100)


def compute_alone(device: Path, *, level: int, block_bytes: int, operation: str) -> tuple[Part, int]:
    """What a ``full`` or a ``restore`` computes, and the bytes of the blocks that are not zero."""
    blocks = list(_blocks(device, block_bytes))
    size_bytes = sum(map(len, blocks))
    if operation == "full":
        return _on_all_cores(blocks, lambda: _sealing(level)), size_bytes
    sealed = []
    seal = _sealing(level)
    while blocks:
        sealed.append(seal(blocks.pop()))
    return _on_all_cores(sealed, _opening), size_bytes


def _blocks(device: Path, block_bytes: int) -> Iterator[bytes]:
    zeroes = bytes(block_bytes)
    with device.open("rb") as disk:
        while block := disk.read(block_bytes):
            if block != zeroes[: len(block)]:
                yield block


def _sealing(level: int) -> Callable[[bytes], tuple[Codec, bytes]]:
    codecs, cipher = Codecs(level), AESGCM(_KEY)

    def seal(block: bytes) -> tuple[Codec, bytes]:
        blake3(block, key=_KEY).digest()
        codec, packed = codecs.pack(block)
        return codec, cipher.encrypt(_NONCE, packed, None)

    return seal


def _opening() -> Callable[[bytes], Any]:
    decompressor, cipher = ZstdDecompressor(), AESGCM(_KEY)

    def open_one(record: tuple[Codec, bytes]) -> None:
        packed = cipher.decrypt(_NONCE, record[1], None)
        blake3(decompressor.decompress(packed) if record[0] is Codec.ZSTD else packed, key=_KEY).digest()

    return open_one


def _on_all_cores(items: Iterable[bytes], make: Callable[[], Callable[[bytes], Any]]) -> Part:
    """make: gives each thread what it does to an item."""
    left, lock = iter(items), threading.Lock()

    def work() -> None:
        do = make()
        while True:
            with lock:
                some = list(islice(left, 4))
            if not some:
                return
            for one in some:
                do(one)

    threads = [threading.Thread(target=work) for _ in os.sched_getaffinity(0)]
    used, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall_s, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    return Part(wall_s, after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime)


if __name__ == "__main__":
    path, wanted, block, what = sys.argv[1:]
    part, size = compute_alone(Path(path), level=int(wanted), block_bytes=int(block), operation=what)
    print(json.dumps([part.wall_s, part.cpu_s, size]))
