"""What a user gets when Prism, its rights or its VMs are not as wished: message, remedy, exit code, nothing left."""

from __future__ import annotations

import pytest

from tests.support.commandline import ONE, TWIN, TWO, VmSpec
from tests.support.commandline import desk as new_desk

HYPERVISOR = 3
LEAVING = VmSpec(name="leaving")
"""Deleted by one test, and used by no other."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory, certificates):
    with new_desk(tmp_path_factory.mktemp("desk"), certificates, vms=(ONE, TWO, TWIN, LEAVING)) as made:
        yield made


def test_a_wrong_password_is_tried_once_and_never_again(desk):
    desk.write(prism={"password": "wrong"})
    desk.lab.forget_calls()
    for _ in range(3):
        desk.run("inventory").refuses(HYPERVISOR, "hypervisor.login", "admin")
    assert len([call for call in desk.lab.calls if call.status == 401]) == 1
    desk.write()
    assert desk.run("inventory").code == 0


def test_a_viewer_is_told_by_check_and_refused_a_backup(desk):
    desk.write(prism={"username": desk.lab.viewer_username, "password": desk.lab.viewer_password})
    checked = desk.run("check")
    assert checked.code == HYPERVISOR
    assert "PROBLEM rights" in checked.out
    desk.run("backup", "one").refuses(HYPERVISOR, "hypervisor.rights", desk.lab.viewer_username)
    desk.nothing_is_left()


def test_a_certificate_other_than_the_pinned_one(desk):
    desk.write(prism={"ca_file": None, "fingerprint": "00" * 32})
    desk.run("inventory").refuses(HYPERVISOR, "hypervisor.certificate", "fingerprint")
    desk.write(prism={"ca_file": None})
    desk.run("inventory").refuses(HYPERVISOR, "hypervisor.certificate", "fingerprint")


def test_an_address_where_no_prism_listens(desk):
    desk.write(prism={"url": "https://127.0.0.1:1"})
    desk.run("inventory").refuses(HYPERVISOR, "hypervisor.unreachable", "127.0.0.1:1")


def test_through_central_the_element_is_found(desk):
    desk.write(prism={"url": f"{desk.lab.central_url}/api/nutanix/v3"})
    assert "one" in desk.run("inventory").out


def test_a_central_without_its_element(tmp_path, certificates):
    elsewhere = VmSpec(name="far", is_elsewhere=True)
    with new_desk(tmp_path, certificates, vms=(ONE, elsewhere), has_element=False) as desk:
        desk.write(prism={"url": desk.lab.central_url})
        outcome = desk.run("backup", "one")
        assert (outcome.code, outcome.error_code) == (HYPERVISOR, "hypervisor.unreachable"), outcome.err
        assert "Element" in outcome.err + outcome.remedy
        desk.nothing_is_left()


def test_a_cluster_that_central_does_not_have(desk):
    desk.write(prism={"url": desk.lab.central_url, "cluster": "nowhere"})
    outcome = desk.run("inventory")
    assert outcome.code in (2, HYPERVISOR), outcome.err
    assert "nowhere" in outcome.err
    assert outcome.remedy


def test_a_name_that_matches_none(desk):
    desk.run("backup", "onne").refuses(2, "select.none", "'onne'", "Did you mean one")
    desk.run("backup", "x*").refuses(2, "select.none", "x*")
    desk.nothing_is_left()


def test_a_name_that_matches_several(desk):
    desk.act("rename_vm", vm="twin", name="one")
    twins = [vm.uuid for vm in desk.lab.state.vms.values() if vm.name == "one"]
    try:
        desk.run("backup", "one").refuses(2, "select.ambiguous", *twins)
        assert desk.backed_up(twins[0])["vm_uuid"] == twins[0]
    finally:
        desk.act("rename_vm", vm=twins[1], name="twin")


def test_ourselves_are_not_backed_up(desk):
    desk.run("backup", "proxy01").refuses(HYPERVISOR, "hypervisor.proxy", "proxy01")


def test_a_vm_deleted_meanwhile_fails_alone(desk):
    gone = {"action": "delete_vm", "vm": "leaving"}
    with desk.fault("administrator", operation="v3.vm_snapshots.create", args=gone):
        outcome = desk.run("backup", "leaving")
    outcome.refuses(HYPERVISOR, "hypervisor.not-found", "leaving")
    desk.nothing_is_left()
    desk.backed_up("one")


def test_two_vms_of_which_one_fails(desk):
    with desk.fault("snapshot_error", operation="v3.vm_snapshots.create", vm="two", count=0):
        outcome = desk.run("backup", "one", "two")
        as_json = desk.run("backup", "one", "two", "--json")
    assert outcome.code == 7
    assert "point " in outcome.out
    assert "error: 1 of 2 failed: backup of two" in outcome.err
    assert outcome.remedy
    assert [point["vm"] for point in as_json.json["points"]] == ["one"]
    assert as_json.json["failures"][0]["facts"]["about"] == "backup of two"
    assert as_json.json["failures"][0]["remedy"]


def test_no_free_slot(desk):
    desk.write(node={"first_slot": 255})
    desk.act("steal_slot", index=255)
    desk.forget_cluster()
    try:
        desk.run("backup", "one", "--full").refuses(HYPERVISOR, "hypervisor.no-free-slot", "proxy01")
        assert "PROBLEM SCSI slots" in desk.run("check").out
    finally:
        desk.act("remove_disk", vm="proxy01", slot="scsi.255")


def test_a_proxy_that_is_not_on_this_cluster(desk):
    desk.write(node={"proxy_uuid": "00000000-0000-4000-8000-000000000000"})
    desk.run("backup", "one").refuses(HYPERVISOR, "hypervisor.proxy")
    assert "PROBLEM own VM" in desk.run("check").out
    assert desk.run("inventory").code == 0


def test_application_consistency_that_is_not_reached(desk):
    asked = ("--consistency", "application")
    assert desk.backed_up("two", *asked)["consistency"] == "application"
    desk.forget_cluster()
    with desk.fault("snapshot_downgraded", operation="v3.vm_snapshots.create", count=0):
        desk.run("backup", "two", *asked).refuses(HYPERVISOR, "hypervisor.consistency", "two")
        desk.nothing_is_left()
        report = desk.backed_up("two", *asked, "--on-downgrade", "warn")
    assert report["consistency"] == "crash"
    assert any("consisten" in warning for warning in report["warnings"])


@pytest.mark.parametrize("fault", ["snapshot_misses_file", "snapshot_no_files", "snapshot_error"])
def test_a_snapshot_that_is_not_whole_makes_no_point(desk, fault):
    before = desk.points()
    with desk.fault(fault, operation="v3.vm_snapshots.create", count=0):
        outcome = desk.run("backup", "two", "--full")
    assert outcome.code == HYPERVISOR, outcome.err
    assert outcome.remedy
    assert desk.points() == before
    desk.nothing_is_left()


def test_a_container_without_room(desk):
    desk.write(limits={"container_free": "2TiB"})
    desk.run("backup", "one").refuses(7, "job.space", "default")
    desk.nothing_is_left()


def test_restores_that_cannot_be(desk):
    point = desk.backed_up("one")["point"]
    desk.forget_cluster()
    names = set(desk.lab.vms)
    refusals = {
        ("--name", "two"): (2, "target.exists"),
        ("--name", "three", "--disk", "scsi.0"): (2, "usage"),
        ("--to-vm", "two", "--disk", "scsi.0", "--slot", "scsi.0"): (3, "hypervisor.slot-occupied"),
        ("--to-vm", "two"): (2, "usage"),
        ("--to-vm", "nobody", "--disk", "scsi.0"): (2, "select.none"),
        ("--name", "three", "--nics", "odd"): (2, "usage"),
        ("--name", "three", "--nics", "keep"): (3, "hypervisor.refused"),
        ("--name", "three", "--network", "lost"): (2, "usage"),
        ("--name", "three", "--network", "vlan10=nowhere"): (3, "hypervisor.refused"),
        (): (2, "usage"),
    }
    for words, (code, error_code) in refusals.items():
        desk.run("restore", point, *words).refuses(code, error_code)
    assert desk.run("restore", point, "--name", "three", "--container", "nowhere").code in (2, HYPERVISOR)
    assert set(desk.lab.vms) == names
    desk.nothing_is_left()
    desk.verified(point)
