"""The whole way with the repository on a real S3 server, and what a user meets when that server fails."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest
import yaml

from mover.app import stores
from mover.clock import SystemClock, pause, stopwatch
from mover.errors import StorageError, StoreDenied, StoreUnreachable
from mover.operations.clean import reconcile
from mover.operations.request import BACKUP
from mover.operations.tofile import restore_to_file
from mover.operations.verify import verify_point
from tests.support.nodeworld import PASSPHRASE, BriskClock, init, noise, running, settings_for, small_lab, write
from tests.support.servers import CARELESS_BUCKET, careless_front, seaweed_in

SLOTS = ("scsi.0", "scsi.1")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with small_lab(tmp_path_factory.mktemp("s3") / "lab") as lab:
        yield lab


@pytest.fixture
def prefix(tmp_path):
    return f"s3://tst/{tmp_path.parent.name}/{tmp_path.name}"


def s3_settings(lab, folder, url, options, **flags):
    return settings_for(lab, folder, repository__url=url, repository__store=options, **flags)


async def test_a_vm_goes_to_s3_and_comes_back(lab, seaweed, tmp_path, prefix):
    settings = s3_settings(lab, tmp_path, prefix, seaweed.options(), repository__passphrase=PASSPHRASE)
    traits = await init(settings)
    assert traits.has_create_only
    async with running(lab, settings) as node:
        first = await node.load(await node.backup())
        then = {slot: node.frozen(first, slot) for slot in SLOTS}
        for slot in SLOTS:
            write(lab, "web01", slot, 400_000, noise(7, 300_000))
        report = await node.backup()
        assert [disk["mode"] for disk in report["disks"]] == ["incremental"] * 2
        second = await node.load(report)
        now = {slot: node.frozen(second, slot) for slot in SLOTS}
        assert now != then

        _, new = await node.restore(second.id, power_on=True)
        assert {slot: node.held(new.name, slot) for slot in SLOTS} == now
        assert new.is_on
        await restore_to_file(node.reading, first.id, "scsi.0", tmp_path / "disk.raw")
        assert (tmp_path / "disk.raw").read_bytes() == then["scsi.0"]
        assert (await verify_point(node.reading, second.id))["verified"]

        await node.node.repository.delete_point(first.id)
        assert [point.id for point in await node.node.repository.points()] == [second.id]
        await node.assert_only_base(second)

    # Another node, that knows nothing but the address and the passphrase.
    elsewhere = settings.model_copy(update={"state_dir": tmp_path / "elsewhere"})
    async with running(lab, elsewhere) as node:
        for slot in SLOTS:
            await restore_to_file(node.reading, second.id, slot, tmp_path / slot)
            assert (tmp_path / slot).read_bytes() == now[slot]


class KillsDuringTheCopy:
    """A sink of progress that kills a process when the first disk has been attached and is copied."""

    def __init__(self) -> None:
        self.victim: int | None = None

    def __call__(self, progress) -> None:
        if progress.phase == "copy" and self.victim is not None:
            os.kill(self.victim, signal.SIGKILL)
            self.victim = None


async def answers_for(node, point_id, patience_s=40.0):
    """A server that has just started refuses for a while to read what it kept from before."""
    started = stopwatch()
    while True:
        try:
            await node.node.repository.load(point_id)
        except StorageError:
            assert stopwatch() - started < patience_s
            pause(0.05)
        else:
            return


async def test_a_server_killed_during_a_backup_costs_that_backup_alone(lab, tmp_path):
    folder, killer = tmp_path / "seaweed", KillsDuringTheCopy()
    folder.mkdir()
    clock = BriskClock(200)
    with seaweed_in(folder) as server:
        settings = s3_settings(lab, tmp_path, "s3://tst/killed", server.options())
        await init(settings)
        async with running(lab, settings, progress=killer, clock=clock) as node:
            first = await node.load(await node.backup())
            then = {slot: node.frozen(first, slot) for slot in SLOTS}
            write(lab, "web01", "scsi.0", 0, noise(8, 2_000_000))
            killer.victim = server.pid
            request = await node.backup_request()
            job = await node.job(BACKUP, request)
            assert killer.victim is None
            assert isinstance(job.error, StoreUnreachable), job.error
            assert f"127.0.0.1:{server.port}" in job.error.message
            assert "Check the endpoint" in job.error.remedy
            # Which snapshot is a base stands in the store: both stay until it can be asked.
            assert not node.ours()["attached"]
            assert first.snapshot_uuid in node.ours()["snapshots"]

            with seaweed_in(folder, server.ports):
                await answers_for(node, first.id)
                await reconcile(node.node, apply=True)
                await node.assert_only_base(first)
                assert [point.id for point in await node.node.repository.points()] == [first.id]
                assert (await verify_point(node.reading, first.id))["verified"]

                report = await node.done(BACKUP, request)
                assert report["point"] == request["point_id"]
                second = await node.load(report)
                for slot in SLOTS:
                    await restore_to_file(node.reading, first.id, slot, tmp_path / f"then-{slot}")
                    await restore_to_file(node.reading, second.id, slot, tmp_path / f"now-{slot}")
                    assert (tmp_path / f"then-{slot}").read_bytes() == then[slot]
                    assert (tmp_path / f"now-{slot}").read_bytes() == node.frozen(second, slot)
                await node.assert_only_base(second)


async def test_a_wrong_secret_key_is_named(lab, seaweed, tmp_path, prefix):
    settings = s3_settings(lab, tmp_path, prefix, seaweed.options(secret_access_key="nothing-of-that-kind"))
    with pytest.raises(StoreDenied) as caught:
        await init(settings)
    assert "secret_access_key" in caught.value.remedy
    assert "nothing-of-that-kind" not in str(caught.value.as_dict())


async def test_a_missing_bucket_is_named_and_not_made(lab, seaweed, tmp_path):
    settings = s3_settings(lab, tmp_path, "s3://no-such-bucket/x", seaweed.options())
    for _ in range(2):
        with pytest.raises(StoreUnreachable, match="no-such-bucket") as caught:
            await init(settings)
        assert "Create the bucket" in caught.value.remedy


async def command(*words: str) -> str:
    """What a mover command, as a process of its own, says; it must end well."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mover", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def test_a_store_that_overwrites_is_said_at_init_and_known_to_every_later_process(lab, seaweed, tmp_path, prefix):
    async with careless_front(seaweed) as endpoint:
        options = seaweed.options(endpoint=endpoint)
        url = prefix.replace("s3://tst/", f"s3://{CARELESS_BUCKET}/")
        settings = s3_settings(lab, tmp_path, url, options)
        config = tmp_path / "mover.yaml"
        config.write_text(yaml.safe_dump({"repository": {"url": url, "store": options}}))
        said = await command("init", "--no-encryption", "--config", str(config))
        assert "This store overwrites existing objects: let one mover at a time write to it." in " ".join(said.split())
        async with stores.store(settings, SystemClock()) as store:
            assert not store.traits.has_create_only
        async with running(lab, settings) as node:
            assert not node.node.repository.store.traits.has_create_only
            point = await node.load(await node.backup())
            _, new = await node.restore(point.id)
            for slot in SLOTS:
                assert node.held(new.name, slot) == node.frozen(point, slot)
            await node.assert_only_base(point)
