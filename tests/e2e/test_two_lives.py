"""One repository, two lives: a restore on another cluster, and a node that was killed between two commands."""

from __future__ import annotations

import asyncio
import signal
import sys

import pytest
import yaml

from mover.errors import RequestRefused
from mover.lab.server import DiskSpec, Lab, LabOptions
from mover.units import MIB
from tests.support.nodeworld import flags_for, init, running, settings_for, small_lab

SLOTS = ("scsi.0", "scsi.1")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with small_lab(tmp_path_factory.mktemp("two-lives") / "lab") as lab:
        yield lab


async def test_another_cluster_needs_its_containers_and_networks_named(lab, tmp_path):
    """The repository and the key are enough; what the cluster lacks is told with the remedy, before a byte moves."""
    settings = settings_for(lab, tmp_path)
    await init(settings)
    async with running(lab, settings) as node:
        point = await node.load(await node.backup())
        frozen = {slot: node.frozen(point, slot) for slot in SLOTS}
    [saved] = lab.vms["web01"].nics
    disk = DiskSpec(size_bytes=MIB, content="empty", container="ssd")
    options = LabOptions(use_loop=False, containers=("ssd",), proxy_disks=(disk,), networks=("vlan10", "lan"))
    async with await Lab.start(tmp_path / "lab", options=options) as other:
        (tmp_path / "there").mkdir()
        settings = settings_for(other, tmp_path / "there", repository__url=settings.repository.url)
        async with running(other, settings) as node:
            with pytest.raises(RequestRefused, match="no storage container") as caught:
                await node.restore(point.id)
            assert "ssd" in caught.value.remedy
            room = {"*": "ssd"}
            with pytest.raises(RequestRefused, match="no network") as caught:
                await node.restore(point.id, container_map=room)
            assert f"--network {saved.network_uuid}=" in caught.value.remedy
            assert not [name for name in other.vms if name.startswith("back-")]
            lan = {"vlan10": "lan"}
            _, back = await node.restore(point.id, container_map=room, network_map=lan, power_on=True)
            assert {slot: node.held(back.name, slot) for slot in SLOTS} == frozen
            assert [(nic.mac_address, nic.is_connected) for nic in back.nics] == [(saved.mac_address, True)]
            assert back.is_on
            await node.assert_only_base(None)


async def test_a_post_command_stays_owed_when_mover_is_killed_and_runs_first_of_all(lab, tmp_path):
    """The pre-command itself kills mover, the first time: the next start thaws, then begins anew."""
    log, mark = tmp_path / "log", tmp_path / "was-killed"
    script = f"echo pre >> {log}; test -e {mark} || {{ touch {mark}; kill -9 $PPID; }}"
    flags = flags_for(
        lab,
        tmp_path,
        backup__pre_snapshot__command=["/bin/sh", "-c", script],
        backup__post_snapshot__command=["/bin/sh", "-c", f"echo post >> {log}"],
    )
    config = tmp_path / "mover.yaml"
    config.write_text(yaml.safe_dump(flags))
    settings = settings_for(lab, tmp_path)
    await init(settings)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mover", "backup", "web01", "--config", str(config)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await process.wait() == -signal.SIGKILL
    assert log.read_text().split() == ["pre"]
    async with running(lab, settings) as node:
        [job] = await node.executor.book.jobs()
        ended = await node.executor.book.wait(job.id)
        assert ended.error is None
        assert log.read_text().split() == ["pre", "post", "pre", "post"]
        await node.assert_only_base(await node.load(ended.result))
