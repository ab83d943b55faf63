"""Exclusions that leave out nothing: a slip is said, where a rule is ordinary."""

from __future__ import annotations

import pytest

from mover.errors import UsageError
from mover.operations.select import check_exclusions, idle_exclusions
from tests.support.world import BLOCK, world


@pytest.fixture
async def w(tmp_path):
    async with world(tmp_path) as made:
        yield made


async def test_a_slot_that_no_chosen_vm_has_is_refused_with_those_there_are(w):
    one, two = w.hypervisor.add_vm("one", [BLOCK]), w.hypervisor.add_vm("two", [BLOCK] * 2)
    for slip in ("scsi.7", "sata"):
        with pytest.raises(UsageError, match=f"--exclude {slip} matches no disk of any VM") as caught:
            check_exclusions([one, two], ("scsi.0", slip))
        assert "one has scsi.0; two has scsi.0, scsi.1" in caught.value.remedy
    assert check_exclusions([one, two], ("scsi.1",)) == []


async def test_a_rule_by_size_that_matches_nothing_is_no_error(w):
    vm = w.hypervisor.add_vm("one", [BLOCK])
    assert check_exclusions([vm], (">2TiB", "<1KiB")) == [">2TiB", "<1KiB"]
    assert idle_exclusions(vm, (">2TiB",)) == []


async def test_the_point_says_which_filter_left_out_nothing(w):
    vm = w.hypervisor.add_vm("two", [BLOCK] * 2)
    report = await w.backup(vm, exclude=("scsi.1", "scsi.7", ">2TiB"))
    assert report["warnings"] == ["--exclude scsi.7 matches no disk of two, which has scsi.0, scsi.1"]
    assert (await w.node.repository.load(report["point"])).warnings == tuple(report["warnings"])


async def test_the_point_says_what_could_not_be_asked(w):
    note = "Prism Central could not be asked, so categories are not known: no answer"
    vm = w.hypervisor.add_vm("one", [BLOCK], notes=(note,))
    assert (await w.backup(vm))["warnings"] == [note]
