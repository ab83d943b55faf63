"""Prism's prose: what is known decides what the table says, what is not known falls to the safe side."""

from __future__ import annotations

import pytest

from mover.errors import EffectUnknown, HypervisorUnreachable, NotFound, RequestRefused
from mover.hypervisor.nutanix import words
from mover.hypervisor.nutanix.session import Repeat
from tests.support.tinyprism import TinyPrism, answers, serving, session_with

VM = "3f6c0a4e-0d55-4b8e-8a5e-0d7f3a1c9b21"
UNKNOWN = f"kTotallyNew: E4711 at VM {VM}"
MISSING = f"VM {VM} does not exist"
UNREADY = f"VM {VM}: the leader was not found, retry"
WRONG = "kInvalidArgument: size is required"


def said(text):
    return answers(500, {"message": text, "error_code": {"code": 1}})


@pytest.fixture
async def prism(tmp_path):
    tiny = TinyPrism()
    async with serving(tiny, tmp_path):
        yield tiny


@pytest.mark.parametrize(
    ("text", "kind", "tries"),
    [
        (MISSING, NotFound, 1),
        (UNKNOWN, HypervisorUnreachable, 3),
        (WRONG, HypervisorUnreachable, 3),
        (UNREADY, HypervisorUnreachable, 25),
    ],
)
async def test_a_look_says_gone_only_where_prism_says_it_of_that_very_thing(prism, tmp_path, text, kind, tries):
    """A service without a leader finds nothing: what it does not find is still there."""
    prism.script("v2/vms/", *[said(text)] * 99)
    async with session_with(prism, tmp_path) as session:
        with pytest.raises(kind):
            await session.get("v2", f"vms/{VM}")
    sent = len(prism.sent("v2/vms/"))
    assert sent == tries if tries < 25 else sent > tries - 5


@pytest.mark.parametrize("text", [UNKNOWN, UNREADY, ""])
async def test_a_change_that_failed_in_unknown_words_is_of_unknown_effect(prism, tmp_path, text):
    prism.script("disks/attach", *[said(text)] * 9)
    async with session_with(prism, tmp_path) as session:
        with pytest.raises(EffectUnknown) as caught:
            await session.post("v2", f"vms/{VM}/disks/attach", {}, repeat=Repeat.NEVER)
    assert "says_refused" not in caught.value.facts
    assert len(prism.sent("attach")) == 1


async def test_a_change_that_may_be_repeated_is_refused_only_in_known_words(prism, tmp_path):
    async with session_with(prism, tmp_path) as session:
        prism.script("disks/detach", *[said(UNKNOWN)] * 9)
        with pytest.raises(HypervisorUnreachable):
            await session.post("v2", f"vms/{VM}/disks/detach", {})
        prism.scripts.clear()
        prism.script("disks/detach", said(WRONG))
        with pytest.raises(RequestRefused):
            await session.post("v2", f"vms/{VM}/disks/detach", {})


@pytest.mark.parametrize("text", ["", UNKNOWN, "Unbekannter Fehler", "0x80004005"])
def test_unknown_prose_means_nothing(text):
    asked = (words.says_missing, words.says_refused, words.says_busy, words.says_unready)
    assert [ask(text) for ask in asked] == [False] * 4


def test_a_service_that_is_not_ready_proves_nothing():
    assert words.says_unready(UNREADY)
    assert not words.says_missing(UNREADY)
    assert not words.says_refused(UNREADY)


@pytest.mark.parametrize(
    "text",
    [
        "/migration/.snapshot/61/.acropolis/vmdisk/5a1e not found",
        "VM busybox-1 is powered off",
        "VM busybox is powered off",
        "VM immigration-db is powered off",
        "VM immigration is powered off",
        "no space in /migration/disks",
        "VM migration: no such disk",
        "VM Migration is powered off",
        "VM Migration: the disk is too small",
        "cannot attach to VM Migration, it is powered off",
        "VM live-migration is powered off",
        "VM busy is not running",
        "VM live-migration-db has no such slot",
        "host migration-01 is unreachable",
    ],
)
def test_a_name_does_not_make_a_vm_busy(text):
    assert not words.says_busy(text)


@pytest.mark.parametrize(
    "text",
    [
        "kVmMigrating: the VM is being migrated",
        "kMigrateInProgress",
        "VM web-1 (3f6c0a4e-0d55-4b8e-8a5e-0d7f3a1c9b21): live migration in progress",
        "The VM is busy",
        "TASK_IN_STATE_BUSY",
        "Another operation is in progress",
        "VM_MIGRATING",
        "Logical timestamp mismatch: 5 vs 6",
        "live-migrating",
        "VM web is live-migrating",
        "VM Migration is being migrated",
        "VM migration in-progress",
        "Operation is not allowed during live migration",
        "Operation is not allowed during migration",
        "locked by migration task 17",
        "The migration of the VM has not finished",
        "Migration of VM web is not complete",
        "Cannot update a migrating VM",
        "kVmIsMigrating",
        "MIGRATION_IN_PROGRESS",
        "VM is undergoing a live-migration",
        "Migration of VM x to host y is running",
        "Migration of VM web-1 to host 10.1.1.1 is still running",
        "VM migration is running",
        "VM is under migration",
        "VM is under live-migration",
        "a migration of the VM is in process",
        "VM is in the process of migration",
        "A migration of this VM is pending",
    ],
)
def test_what_says_busy_says_it_in_every_spelling(text):
    assert words.says_busy(text)


@pytest.mark.parametrize(
    "text", ["VM transport-01 does not exist", "/leader/retry.img: no such file", "disk1 not found"]
)
def test_a_name_does_not_make_a_service_unready(text):
    assert not words.says_unready(text)
    assert words.says_missing(text)


@pytest.mark.parametrize(
    "text",
    [
        "org.apache.thrift.transport.TTransportException: not found",
        "java.net.SocketTimeoutException",
        "kTransportError",
        "Cannot connect to 10.0.0.1:2027",
        "could not connect",
        "Failed to connect",
        "503 Service Unavailable",
        "please retry",
        "the request timed-out",
        "metadata service is not-ready",
    ],
)
def test_a_service_that_is_not_ready_is_known_in_every_spelling(text):
    assert words.says_unready(text)
    assert not words.says_missing(text)


@pytest.mark.parametrize("text", ["disk not-found", "not-supported here", "the slot is already in-use"])
def test_a_hyphen_does_not_make_a_name_of_a_refusal(text):
    assert words.says_refused(text)


def test_only_prisms_own_words_are_read():
    """The name of a host or of a call stands in our own sentence."""
    refused = RequestRefused("migration-pe refused x: E4711", remedy="r", said="E4711", host="migration-pe")
    assert words.said_in(refused) == "E4711"
    assert words.said_in(EffectUnknown("a transport was lost", remedy="r")) == ""
