"""What a store gives: packs put and got, ranges got, names listed; latency and our CPU time.

A folder (durable: fdatasync of every object and its folder), S3 on a SeaweedFS started for it, or
any address. Everything is made below one name of its own and deleted at the end, however it ends.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from bench import content
from bench.kit import Bench, Folder, Out, Quick, Samples, Spent, bench, settings_of, work_folder
from bench.sample_disk import evict
from mover.clock import SystemClock, secret_bytes, stopwatch
from mover.errors import MoverError, UsageError
from mover.storage.health import StoreMetrics
from mover.storage.protocol import Store
from mover.storage.stack import open_store
from mover.units import GIB, KIB, MIB
from tests.support.servers import BUCKET, seaweed_in

RANGE_BYTES = 512 * KIB
"""About one sealed block of 1 MiB."""
HUNDREDTHS = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Load:
    """How much is moved in one sample."""

    packs: int = 16
    pack_bytes: int = 32 * MIB
    ranges: int = 256
    names: int = 500
    at_once: Sequence[int] = (1, 4)
    range_depths: Sequence[int] = (1, 8)

    @property
    def volume_bytes(self) -> int:
        return self.packs * self.pack_bytes


QUICK = Load(packs=3, pack_bytes=256 * KIB, ranges=8, names=10, at_once=(2,), range_depths=(2,))


async def each(at_once: int, count: int, call: Callable[[int], Awaitable[object]]) -> tuple[Spent, list[float]]:
    """``call(0 … count - 1)``, so many in flight; what it took, and the seconds of each."""
    gate, seconds = asyncio.Semaphore(at_once), []

    async def one(number: int) -> None:
        async with gate:
            started = stopwatch()
            await call(number)
            seconds.append(stopwatch() - started)

    with Spent() as spent:
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(one(number))
    return spent, seconds


class Probe:
    """One sample of one store, below one prefix."""

    def __init__(self, run: Bench, store: Store, label: str, load: Load, *, folder: Path | None) -> None:
        self._run, self._store, self._label, self._load, self._folder = run, store, label, load, folder

    async def sample(self) -> None:
        for at_once in self._load.at_once:
            async with self._place() as place:
                await self._packs(place, at_once)
                for depth in self._load.range_depths if at_once == self._load.at_once[-1] else ():
                    await self._ranges(place, depth)
        async with self._place() as place:
            await self._names(place)

    async def _packs(self, place: str, at_once: int) -> None:
        load, store = self._load, self._store
        quarter = load.pack_bytes // 4
        parts = content.blocks(quarter, 4)
        params: dict[str, Any] = {"store": self._label, "at_once": at_once}

        async def put(number: int) -> None:
            await store.create(f"{place}/pack-{number}", parts)

        async def get(number: int) -> None:
            found = await store.get(f"{place}/pack-{number}")
            if len(found) != load.pack_bytes:
                raise UsageError("a pack came back with another length", remedy="Run mover init against that store.")

        self._add("put", *await each(at_once, load.packs, put), load.volume_bytes, **params)
        self._forget(place)
        self._add("get", *await each(at_once, load.packs, get), load.volume_bytes, **params)

    async def _ranges(self, place: str, depth: int) -> None:
        load, dice = self._load, random.Random(1)
        length = min(RANGE_BYTES, load.pack_bytes // 2)
        wanted = [(dice.randrange(load.packs), dice.randrange(0, load.pack_bytes - length)) for _ in range(load.ranges)]

        async def get(number: int) -> None:
            pack, offset = wanted[number]
            await self._store.get_range(f"{place}/pack-{pack}", offset, length)

        self._forget(place)
        found = await each(depth, load.ranges, get)
        self._add("range", *found, load.ranges * length, store=self._label, at_once=depth)

    async def _names(self, place: str) -> None:
        async def put(number: int) -> None:
            await self._store.create(f"{place}/{number:06}", [b"small"])

        _, seconds = await each(8, self._load.names, put)
        self._add_latency("put_small", seconds, store=self._label, at_once=8)
        with Spent() as spent:
            names = [info.name async for info in self._store.list(f"{place}/")]
        rate = spent.wall_s / len(names) * 1e6
        self._run.add("store.list.name", rate, "us", "lower", store=self._label, names=len(names))

    def _add(self, what: str, spent: Spent, seconds: list[float], volume: int, **params: str | int) -> None:
        self._run.add(f"store.{what}.rate", spent.rate(volume), "B/s", "higher", **params)
        self._run.add(f"store.{what}.cpu", spent.cpu_s / (volume / GIB), "s/GiB", "lower", **params)
        self._add_latency(what, seconds, **params)

    def _add_latency(self, what: str, seconds: list[float], **params: str | int) -> None:
        """One figure a round: calls of one round share its weather, so they are no samples of their own."""
        for hundredth in HUNDREDTHS:
            value = float(np.percentile(seconds, hundredth))
            self._run.add(f"store.{what}.latency", value, "s", "lower", **params, at=f"p{hundredth}")

    def _forget(self, place: str) -> None:
        """Read from the disk, not from memory: of a folder only; a server keeps what it likes."""
        if self._folder is not None:
            evict(self._folder / place)

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[str]:
        """A name of our own; what is below it afterwards is deleted, also when we are stopped."""
        place = f"bench-{secret_bytes(6).hex()}"
        try:
            yield place
        finally:
            async with asyncio.TaskGroup() as group:
                gate = asyncio.Semaphore(8)
                names = [info.name async for info in self._store.list(f"{place}/")]
                for name in names:
                    group.create_task(_delete(self._store, name, gate))


async def _delete(store: Store, name: str, gate: asyncio.Semaphore) -> None:
    async with gate:
        await store.delete(name)


async def measure(
    run: Bench, url: str, options: dict[str, str], *, label: str, load: Load, samples: int, folder: Path | None = None
) -> None:
    """Raises MoverError when the store cannot be opened or refuses."""
    store = await open_store(url, options, clock=SystemClock(), create=folder is not None, watch=StoreMetrics())
    try:
        for number in range(samples):
            run.say(f"{label}: sample {number + 1}")
            await Probe(run, store, label, load, folder=folder).sample()
    finally:
        await store.close()


def _options(given: list[str]) -> dict[str, str]:
    wrong = next((text for text in given if "=" not in text), None)
    if wrong is not None:
        raise UsageError(f"--option {wrong} is not NAME=VALUE", remedy="Write --option endpoint=http://host:port.")
    return dict(text.split("=", 1) for text in given)


def _seaweed(run: Bench, folder: Path | None, load: Load, samples: int) -> None:
    with work_folder(folder, load.volume_bytes * 3) as place:
        try:
            with seaweed_in(place) as server:
                run.note("SeaweedFS runs on this machine: its CPU time is not in ours, but it takes the same cores")
                asyncio.run(
                    measure(run, f"s3://{BUCKET}/bench", server.options(), label="S3", load=load, samples=samples)
                )
        except RuntimeError as error:
            raise MoverError(str(error), remedy="Install the packages of the tests, or name a --url.") from None


def main(
    folder: Folder = None,
    s3: Annotated[bool, typer.Option("--s3", help="Also S3, on a SeaweedFS started for it.")] = False,
    url: Annotated[str, typer.Option(help="Instead: a folder, or s3://bucket/prefix.")] = "",
    option: Annotated[list[str] | None, typer.Option(help="NAME=VALUE of that store, as in mover.yaml.")] = None,
    samples: Samples = 5,
    quick: Quick = False,
    out: Out = None,
) -> None:
    """Put, get, get ranges of, and list what a repository would."""
    load, samples = (QUICK, 2) if quick else (Load(), samples)
    named = settings_of(folder=folder, s3=s3, url=url, samples=samples)
    with bench("store", out, quick=quick, **named) as run:
        run.results.settings["load"] = {name: getattr(load, name) for name in load.__slots__}
        if url:
            given = _options(option or [])
            asyncio.run(measure(run, url, given, label=url, load=load, samples=samples))
            return
        with work_folder(folder, load.volume_bytes * 2) as place:
            asyncio.run(measure(run, str(place), {}, label="folder", load=load, samples=samples, folder=place))
        if s3:
            _seaweed(run, folder, load, samples)


if __name__ == "__main__":
    typer.run(main)
