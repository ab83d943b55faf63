"""Ways to restore and to freeze that differ from the plain one, through executor and jobs, against a lab.

What the command line's own tests show (refused wishes, downgrades by the cluster) is not repeated.
"""

from __future__ import annotations

import pytest
import pytest_asyncio

from mover.errors import ConsistencyDowngraded, HookFailed, RequestRefused, SlotOccupied
from mover.lab.server import DiskSpec, NicSpec, VmSpec
from mover.model.machine import Consistency
from mover.units import MIB
from tests.support.nodeworld import init, running, settings_for, small_lab

pytestmark = pytest.mark.asyncio(loop_scope="module")

DISKS = (DiskSpec(size_bytes=2 * MIB), DiskSpec(size_bytes=MIB, container="fast"), DiskSpec(kind="CDROM"))
NICS = (NicSpec(ip_address="192.0.2.7"), NicSpec(network="vlan20", is_connected=False))
GUEST = VmSpec(name="web01", disks=DISKS, nics=NICS)
LEAVES = VmSpec(name="leaves", disks=DISKS, nics=NICS)
TARGET = VmSpec(name="target", disks=(DiskSpec(size_bytes=MIB), DiskSpec(size_bytes=MIB, index=2)))
HOOKED = VmSpec(name="hooked", disks=(DiskSpec(size_bytes=MIB),))
ODD = VmSpec(
    name="odd",
    disks=(DiskSpec(size_bytes=MIB), DiskSpec(kind="VOLUME_GROUP", size_bytes=MIB)),
    boot_type="SECURE_BOOT",
    machine_type="Q35",
    has_vtpm=True,
)
SLOTS = ("scsi.0", "scsi.1")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with small_lab(tmp_path_factory.mktemp("variants") / "lab", GUEST, LEAVES, TARGET, HOOKED, ODD) as lab:
        yield lab


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("node")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(lab, folder):
    """One executor for the module; what tests make bears names of its own."""
    settings = settings_for(lab, folder)
    await init(settings)
    async with running(lab, settings) as node:
        yield node


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def point(node):
    return await node.load(await node.backup())


def macs(vm) -> list[str]:
    return [nic.mac_address for nic in vm.nics]


def connected(vm) -> list[bool]:
    return [nic.is_connected for nic in vm.nics]


# --- network cards ---


async def test_network_cards_while_the_original_lives(node, lab, point):
    original = lab.vms["web01"]
    _, disconnected = await node.restore(point.id)
    assert connected(disconnected) == [False, False]
    _, new = await node.restore(point.id, nic_mode="new-mac", power_on=True)
    assert connected(new) == [True, False]
    assert new.is_on
    assert not {*macs(original)} & {*macs(disconnected), *macs(new)}
    networks = [nic.network_uuid for nic in original.nics]
    for restored in (disconnected, new):
        assert [nic.network_uuid for nic in restored.nics] == networks


async def test_network_cards_come_back_as_they_were_when_the_original_is_gone(node, lab):
    point = await node.load(await node.backup("leaves"))
    lost = lab.vms["leaves"]
    await lab.administrator("delete_vm", vm="leaves")
    report, back = await node.restore(point.id, name="leaves")
    assert report["nic_mode"] == "keep"
    assert (macs(back), connected(back)) == (macs(lost), connected(lost))
    # A second one: the addresses are taken, which is known before a byte is moved.
    with pytest.raises(RequestRefused, match="in use by VM leaves") as caught:
        await node.restore(point.id, name="leaves-twice", nic_mode="keep")
    assert "--nics new-mac" in caught.value.remedy
    assert "leaves-twice" not in lab.vms


async def test_a_network_is_another_by_its_name(node, lab, point):
    _, restored = await node.restore(point.id, network_map={"vlan10": "vlan20"})
    assert {nic.network_uuid for nic in restored.nics} == {lab.vms["web01"].nics[1].network_uuid}


# --- places ---


async def test_a_disk_joins_a_vm_at_a_free_or_a_given_slot(node, lab, point):
    before = {disk.label: disk.vmdisk_uuid for disk in lab.vms["target"].disks}
    found = await node.restore_disk(point.id, "scsi.0", "target")
    given = await node.restore_disk(point.id, "scsi.1", "target", "scsi.7")
    assert [found["disks"][0]["slot"], given["disks"][0]["slot"]] == ["scsi.1", "scsi.7"]
    assert node.held("target", "scsi.1") == node.frozen(point, "scsi.0")
    assert node.held("target", "scsi.7") == node.frozen(point, "scsi.1")
    with pytest.raises(SlotOccupied, match=r"scsi\.7 of target") as caught:
        await node.restore_disk(point.id, "scsi.0", "target", "scsi.7")
    assert "scsi.3" in caught.value.remedy
    after = {disk.label: disk.vmdisk_uuid for disk in lab.vms["target"].disks}
    assert before.items() <= after.items()
    assert set(after) - set(before) == {"scsi.1", "scsi.7"}
    assert node.ours()["attached"] == []


# --- what a point lacks ---


async def test_what_cannot_be_saved_is_said_in_point_and_restore(node, lab):
    backed_up = await node.backup("odd")
    point = await node.load(backed_up)
    for words in ("volume group in scsi.1", "UEFI variables", "vTPM"):
        assert any(words in warning for warning in point.warnings), point.warnings
    assert backed_up["warnings"] == list(point.warnings)
    assert [(str(other.slot), str(other.kind)) for other in point.others] == [("scsi.1", "volume_group")]
    report, back = await node.restore(point.id)
    assert set(point.warnings) <= set(report["warnings"])
    assert (back.boot_type, back.machine_type, back.has_vtpm) == ("SECURE_BOOT", "Q35", True)
    assert [disk.label for disk in back.disks] == ["scsi.0"]
    assert node.held(back.name, "scsi.0") == node.frozen(point, "scsi.0")


async def test_an_excluded_disk_is_named_everywhere_and_comes_back_empty(node):
    report = await node.backup(exclude=("scsi.1",), keep_base=False)
    assert [(disk["mode"], disk["reason"]) for disk in report["disks"]][1] == ("excluded", "excluded by scsi.1")
    restored, back = await node.restore(report["point"])
    assert "scsi.1 comes back empty: excluded by scsi.1" in restored["warnings"]
    assert [row["is_empty"] for row in restored["disks"]] == [False, True]
    assert node.held(back.name, "scsi.1") == bytes(MIB)
    assert any(node.held(back.name, "scsi.0"))


async def test_a_guest_without_tools_cannot_be_quiesced(node, lab):
    asked = {"consistency": Consistency.APPLICATION}
    before = node.ours()
    with pytest.raises(ConsistencyDowngraded, match="hooked"):
        await node.backup("hooked", **asked)
    await lab.settle()
    assert node.ours() == before
    report = await node.backup("hooked", **asked, on_downgrade="warn", keep_base=False)
    assert report["consistency"] == "crash"
    assert any("application-consistent" in warning for warning in report["warnings"])


# --- commands around the snapshot ---


def hook(log, word: str, **policy):
    """A command that writes its word, the VM and the time."""
    script = f'echo {word} "$0" $(date +%s.%N) >> {log}'
    return {"command": ["/bin/sh", "-c", script, "{vm_name}"], **policy}


async def test_commands_run_in_order_around_the_snapshot(node, lab, tmp_path):
    log = tmp_path / "log"
    report = await node.backup("hooked", pre_snapshot=hook(log, "pre"), post_snapshot=hook(log, "post"))
    lines = [line.split() for line in log.read_text().splitlines()]
    assert [line[:2] for line in lines] == [["pre", "hooked"], ["post", "hooked"]]
    made = (await node.load(report)).snapshot_uuid
    [snapshot] = [one for one in lab.snapshots("hooked") if one.uuid == made]
    assert float(lines[0][2]) <= snapshot.created_at <= float(lines[1][2])


async def test_a_pre_command_that_fails_makes_no_snapshot_and_the_post_command_runs(node, lab, tmp_path):
    log = tmp_path / "log"
    before = node.ours()
    fails = {"command": ["/bin/sh", "-c", "echo cannot freeze; exit 7"]}
    with pytest.raises(HookFailed, match=r"exit code 7: cannot freeze"):
        await node.backup("hooked", pre_snapshot=fails, post_snapshot=hook(log, "post"))
    assert log.read_text().split()[0] == "post"
    await lab.settle()
    assert node.ours() == before
    assert {entry.kind for entry in await node.node.ledger.open_entries()} <= {"snapshot"}


async def test_a_post_command_that_hangs_is_killed_and_not_owed_any_more(node, lab):
    hangs = {"command": ["/bin/sh", "-c", "sleep 600"], "timeout": 0.2}
    before = node.ours()
    with pytest.raises(HookFailed, match=r"post-snapshot command /bin/sh was killed after 0\.2 s"):
        await node.backup("hooked", post_snapshot=hangs)
    await lab.settle()
    assert node.ours() == before
    report = await node.backup("hooked", post_snapshot={**hangs, "on_failure": "warn"})
    assert any("was killed after" in warning for warning in report["warnings"])
    assert {entry.kind for entry in await node.node.ledger.open_entries()} <= {"snapshot"}
