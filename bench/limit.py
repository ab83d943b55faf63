"""What this machine and disk allow at most: the raw read, and hash + zstd + AES from memory.

The blocks of a device that are not zero are held in memory, and as many threads as cores do to
them what a backup must: keyed BLAKE3, zstd, AES-256-GCM. Nothing is read or written.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

BLOCK_BYTES = 1 << 20


def fio_read_s(device: Path, *, read_bytes: int) -> float:
    """Seconds that fio needs to read so many bytes of the device: 1 MiB, direct, depth 4."""
    command = ["fio", "--name=read", f"--filename={device}", "--readonly", "--rw=read", "--bs=1M", "--direct=1"]
    command += ["--ioengine=libaio", "--iodepth=4", f"--size={read_bytes}", "--output-format=json"]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return float(answer["jobs"][0]["read"]["runtime"]) / 1000


def compute_s(device: Path, *, level: int) -> tuple[float, float]:
    """(wall, CPU) seconds of hash, compression and encryption of the device's blocks from memory."""
    from blake3 import blake3
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from zstandard import ZstdCompressor

    blocks: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    zeroes = bytes(BLOCK_BYTES)
    with device.open("rb") as disk:
        while block := disk.read(BLOCK_BYTES):
            if block != zeroes[: len(block)]:
                blocks.put(block)
    threads = len(os.sched_getaffinity(0))
    for _ in range(threads):
        blocks.put(None)

    def work() -> None:
        compressor, cipher = ZstdCompressor(level=level), AESGCM(bytes(32))
        key, number = bytes(range(32)), 0
        while (block := blocks.get()) is not None:
            blake3(block, key=key).digest()
            cipher.encrypt(number.to_bytes(12, "big"), compressor.compress(block), None)
            number += 1

    used, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    return wall, after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime


if __name__ == "__main__":
    print(json.dumps(compute_s(Path(sys.argv[1]), level=int(sys.argv[2]))))
