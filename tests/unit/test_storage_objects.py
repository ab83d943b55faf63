"""S3 over obstore: what lost answers, cut lines and refusals of a real server become."""

from __future__ import annotations

import asyncio
import mmap
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from aiohttp import web
from obstore.store import S3Store

from mover.clock import FakeClock, SystemClock, secret_bytes
from mover.errors import ObjectExists, StorageError, StoreDenied, StoreFull, StoreUnreachable
from mover.storage.limits import LimitedStore, Limits
from mover.storage.objects import ObjectStore
from mover.storage.protocol import Store, StoreTraits
from mover.storage.retry import Patience, RetryingStore
from mover.storage.stack import open_store, stacked
from mover.units import MIB
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.servers import ACCESS_KEY, BUCKET, READER_KEY, READER_SECRET, SECRET_KEY, Seaweed, free_ports

NEVER = Limits(timeout_s=30, whole_s=30)


def bare(store: Store) -> ObjectStore:
    """The object store itself, without its wrappers."""
    while not isinstance(store, ObjectStore):
        store = store._store  # type: ignore[attr-defined]  # each wrapper keeps the next one there
    return store


def place(prefix: str = "") -> str:
    return f"s3://{BUCKET}/{prefix or uuid.uuid4().hex}"


@asynccontextmanager
async def behind_proxy(seaweed: Seaweed) -> AsyncIterator[tuple[FaultProxy, Store]]:
    async with FaultProxy("127.0.0.1", seaweed.port) as proxy:
        options = seaweed.options(endpoint=f"http://127.0.0.1:{proxy.port}")
        opened = await open_store(place(), options, clock=SystemClock())
        yield proxy, stacked(bare(opened), FakeClock(), limits=NEVER)
        await opened.close()


LOST = {
    "lost-answer": Fault("down", cut_after_bytes=0),
    "lost-answer-by-reset": Fault("down", cut_after_bytes=0, reset=True),
    "cut-answer": Fault("down", cut_after_bytes=20),
    "cut-request": Fault("up", cut_after_bytes=100),
    "reset-request": Fault("up", cut_after_bytes=300, reset=True),
}


class TestLines:
    @pytest.mark.parametrize("fault", LOST.values(), ids=LOST)
    async def test_every_verb_survives_a_line_that_breaks(self, seaweed: Seaweed, fault: Fault) -> None:
        data = secret_bytes(300_000)
        async with behind_proxy(seaweed) as (proxy, store):
            proxy.arm(fault)
            await store.create("packs/0a/x", [data[:1000], data[1000:]])
            proxy.arm(fault)
            assert await store.get("packs/0a/x") == data
            proxy.arm(fault)
            assert bytes(await store.get_range("packs/0a/x", 5, 200_000)) == data[5:200_005]
            proxy.arm(fault)
            assert [info.size_bytes async for info in store.list("packs/")] == [300_000]
            proxy.arm(fault)
            await store.replace("sessions/s", [b"beat"])
            proxy.arm(fault)
            assert (await store.info("sessions/s")) is not None
            proxy.arm(fault)
            await store.delete("packs/0a/x")
            assert await store.info("packs/0a/x") is None
            assert proxy.used == 7

    async def test_a_lost_answer_never_hides_a_conflict(self, seaweed: Seaweed) -> None:
        async with behind_proxy(seaweed) as (proxy, store):
            await store.create("points/p", [b"theirs"])
            proxy.arm(Fault("down", cut_after_bytes=0))
            with pytest.raises(ObjectExists):
                await store.create("points/p", [b"ours"])
            assert await store.get("points/p") == b"theirs"

    async def test_a_body_that_is_cut_is_never_taken_for_whole(self, seaweed: Seaweed) -> None:
        data = secret_bytes(400_000)
        async with behind_proxy(seaweed) as (proxy, store):
            await store.create("packs/0a/x", [data])
            proxy.arm(Fault("down", cut_after_bytes=100_000))
            with pytest.raises(StoreUnreachable):
                await bare(store).get("packs/0a/x")
            proxy.arm(Fault("down", cut_after_bytes=100_000))
            with pytest.raises(StoreUnreachable):
                await bare(store).get_range("packs/0a/x", 0, 400_000)
            proxy.arm(Fault("up", cut_after_bytes=100_000))
            with pytest.raises(StoreUnreachable):
                await bare(store).create("packs/0a/y", [data])
            assert await store.info("packs/0a/y") is None

    async def test_a_server_that_says_nothing_is_left_in_time(self, seaweed: Seaweed) -> None:
        async with behind_proxy(seaweed) as (proxy, opened):
            limited = LimitedStore(bare(opened), Limits(timeout_s=0.2, whole_s=0.2))
            store = RetryingStore(limited, FakeClock(), Patience(tries=2))
            silence = Fault("down", cut_after_bytes=0, hang=True)
            proxy.arm(silence)
            await store.create("packs/0a/x", [bytes(100_000)])
            proxy.arm(silence, silence)
            with pytest.raises(StoreUnreachable, match="took longer"):
                await store.get("packs/0a/x")

    async def test_a_cancelled_put_lets_go_of_the_callers_memory(self, seaweed: Seaweed) -> None:
        buffer = mmap.mmap(-1, 8 * MIB)
        async with behind_proxy(seaweed) as (proxy, store):
            proxy.arm(Fault("up", cut_after_bytes=MIB, hang=True))
            whole = memoryview(buffer)
            async with asyncio.TaskGroup() as group:
                put = group.create_task(store.create("packs/0a/x", [whole[: 4 * MIB], whole[4 * MIB :]]))
                await proxy.passed(MIB)
                put.cancel()
            assert put.cancelled()
            del put
            whole.release()
            buffer.close()
            assert await store.info("packs/0a/x") is None

    async def test_a_port_where_nobody_listens(self) -> None:
        (port,) = free_ports(1)
        options = {"endpoint": f"http://127.0.0.1:{port}", "allow_http": "true"}
        options |= {"access_key_id": "A", "secret_access_key": "S"}
        with pytest.raises(StoreUnreachable, match="Connection refused") as error:
            await open_store(place(), options, clock=FakeClock())
        assert error.value.facts["tries"] == 3


class TestOpening:
    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"secret_access_key": "wrong"}, "secret_access_key"),
            ({"access_key_id": "NOBODY"}, "access_key_id"),
        ],
    )
    async def test_wrong_credentials_are_told_which_and_tried_once(
        self, seaweed: Seaweed, changed: dict[str, str], said: str
    ) -> None:
        async with FaultProxy("127.0.0.1", seaweed.port) as proxy:
            options = seaweed.options(endpoint=f"http://127.0.0.1:{proxy.port}", **changed)
            clock = FakeClock()
            with pytest.raises(StoreDenied) as error:
                await open_store(place(), options, clock=clock)
            assert said in error.value.remedy
            assert "SKTESTSECRET" not in str(error.value.as_dict())
            assert clock.elapsed < 0.1, "no pause of a second try"

    async def test_a_missing_bucket_is_named_and_not_made(self, seaweed: Seaweed) -> None:
        for _ in range(2):
            with pytest.raises(StoreUnreachable, match=r"bucket of s3://not-there/x .* does not exist") as error:
                await open_store("s3://not-there/x", seaweed.options(), clock=FakeClock())
            assert "Create the bucket" in error.value.remedy

    async def test_a_bucket_that_goes_later_is_told_by_every_verb(self, seaweed: Seaweed) -> None:
        client = S3Store(
            "not-there",
            endpoint=seaweed.endpoint,
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            region="us-east-1",
            client_options={"allow_http": True},
        )
        traits = StoreTraits(has_create_only=True, list_lag_s=0, description="s3://not-there")
        gone = ObjectStore(client, place="s3://not-there", prefix="", traits=traits, clock=FakeClock())
        for call in (gone.create("a", [b"x"]), gone.replace("a", [b"x"]), gone.get("a"), gone.get_range("a", 0, 1)):
            with pytest.raises(StoreUnreachable, match="does not exist"):
                await call

    async def test_a_key_that_may_only_read_is_denied_by_name(self, seaweed: Seaweed) -> None:
        options = seaweed.options(access_key_id=READER_KEY, secret_access_key=READER_SECRET)
        store = await open_store(place(), options, clock=FakeClock())
        with pytest.raises(StoreDenied, match="packs/0a/x") as error:
            await store.create("packs/0a/x", [b"x"])
        assert "right to read, write, list and delete" in error.value.remedy

    async def test_two_prefixes_of_a_bucket_do_not_see_each_other(self, seaweed: Seaweed) -> None:
        prefix = uuid.uuid4().hex
        one = await open_store(place(f"{prefix}/a"), seaweed.options(), clock=FakeClock())
        other = await open_store(place(f"{prefix}/ab"), seaweed.options(), clock=FakeClock())
        await other.create("x", [b"other"])
        assert await one.info("x") is None
        assert [info.name async for info in one.list("")] == []


@pytest.mark.long
async def test_a_listing_of_many_pages_is_whole_and_ordered(seaweed: Seaweed) -> None:
    store = await open_store(place(), seaweed.options(), clock=SystemClock())
    wanted = [f"packs/{number % 256:02x}/{number:05x}" for number in range(2300)]
    await asyncio.gather(*(store.create(name, [b"x"]) for name in wanted))
    assert [info.name async for info in store.list("packs/")] == sorted(wanted)
    assert [info.name async for info in store.list("packs/0a/00")] == sorted(
        name for name in wanted if name.startswith("packs/0a/00")
    )


async def test_a_listing_out_of_order_is_an_error_not_a_hole(seaweed: Seaweed) -> None:
    """SeaweedFS lists b/x before b-c. The repository has no such names; were there any, none may go unseen."""
    store = await open_store(place(), seaweed.options(), clock=FakeClock())
    for name in ("b/x", "b-c"):
        await store.create(name, [b"x"])
    with pytest.raises(StorageError, match="b-c after b/x") as error:
        _ = [info.name async for info in store.list("")]
    assert not error.value.retryable


class TestCareless:
    async def test_a_store_known_as_careless_looks_before_it_puts(self, seaweed: Seaweed) -> None:
        store = await open_store(place(), seaweed.options(create_only="false"), clock=FakeClock())
        assert not store.traits.has_create_only
        await store.create("points/p", [b"mine"])
        await store.create("points/p", [b"mine"])
        with pytest.raises(ObjectExists):
            await store.create("points/p", [b"other"])

    async def test_learning_changes_the_mode_through_all_wrappers(self, seaweed: Seaweed) -> None:
        store = await open_store(place(), seaweed.options(), clock=FakeClock())
        store.learn(replace(store.traits, has_create_only=False))
        assert not bare(store).traits.has_create_only


@asynccontextmanager
async def answering(status: int, body: str) -> AsyncIterator[tuple[Store, list[web.Request]]]:
    """A store whose server gives this answer to everything but the first listing."""
    seen: list[web.Request] = []

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        if "list-type" in request.query and not seen:
            return web.Response(text='<?xml version="1.0"?><ListBucketResult></ListBucketResult>')
        seen.append(request)
        return web.Response(status=status, text=body, content_type="application/xml")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    options = {"endpoint": f"http://127.0.0.1:{runner.addresses[0][1]}", "allow_http": "true"}
    options |= {"access_key_id": "A", "secret_access_key": "S"}
    try:
        yield await open_store("s3://bucket/x", options, clock=FakeClock()), seen
    finally:
        await runner.cleanup()


def _error(code: str) -> str:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>no</Message></Error>'


@pytest.mark.parametrize(
    ("status", "code", "kind", "tries"),
    [
        (403, "AccessDenied", StoreDenied, 1),
        (401, "", StoreDenied, 1),
        (400, "ExpiredToken", StoreDenied, 1),
        (403, "RequestTimeTooSkewed", StoreDenied, 1),
        (400, "AuthorizationHeaderMalformed", StoreDenied, 1),
        (403, "QuotaExceeded", StoreFull, 1),
        (507, "", StoreFull, 1),
        (500, "InternalError", StoreUnreachable, 8),
        (503, "SlowDown", StoreUnreachable, 8),
        (429, "", StoreUnreachable, 8),
        (400, "InvalidArgument", StorageError, 1),
    ],
)
async def test_each_refusal_has_its_error_and_its_tries(
    status: int, code: str, kind: type[StorageError], tries: int
) -> None:
    calls: tuple[Callable[[Store], Awaitable[object]], ...] = (
        lambda store: store.create("a", [b"x"]),
        lambda store: store.get_range("a", 0, 1),
        lambda store: store.delete("a"),
    )
    for call in calls:
        async with answering(status, _error(code) if code else "") as (store, seen):
            with pytest.raises(StorageError) as error:
                await call(store)
            assert type(error.value) is kind
            assert error.value.remedy
            assert len(seen) == tries


async def test_a_server_that_ignores_ranges_is_told_as_that() -> None:
    async with answering(200, "x" * 1000) as (store, _):
        with pytest.raises(StoreUnreachable, match="non-partial") as error:
            await bare(store).get_range("a", 10, 100)
    assert "Range" in error.value.remedy


async def test_closing_gives_the_clients_threads_time_to_leave() -> None:
    clock = FakeClock()
    client = S3Store("b", region="us-east-1", access_key_id="A", secret_access_key="S")
    traits = StoreTraits(has_create_only=True, list_lag_s=0, description="b")
    await ObjectStore(client, place="b", prefix="", traits=traits, clock=clock).close()
    assert clock.elapsed > 0


async def test_a_server_without_create_only_is_met_by_looking() -> None:
    async with answering(501, _error("NotImplemented")) as (store, seen):
        with pytest.raises(StorageError):
            await bare(store).create("a", [b"x"])
        assert [request.method for request in seen] == ["PUT", "HEAD"]
        assert not store.traits.has_create_only
