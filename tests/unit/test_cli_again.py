"""A restore that is ordered while jobs have not ended: which one is the same, which one stands in the way."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mover.cli import restore
from mover.cli.ordering import same_order
from mover.errors import TargetExists
from mover.jobs.book import Job, JobState
from mover.operations.request import REPOSITORY, RESTORE, place_of

REQUEST = {"point_id": "p", "name": "again"}
URL = SimpleNamespace(url="/backup")
SESSION = SimpleNamespace(settings=SimpleNamespace(repository=URL))
VM = SimpleNamespace(name="again")


def job(*, is_ending: bool = False, state: JobState = JobState.RUNNING) -> Job:
    request = {**REQUEST, REPOSITORY: place_of(URL)}
    return Job("4f703166731e4c01", 1, RESTORE, request, state, 1.0, 1.0, is_ending=is_ending)


def test_the_same_restore_is_the_one_that_goes_on_not_one_that_is_being_ended():
    assert same_order(SESSION, (RESTORE, REQUEST), [job()]) == job()
    assert same_order(SESSION, (RESTORE, REQUEST), [job(is_ending=True)]) is None
    assert same_order(SESSION, (RESTORE, {**REQUEST, "name": "other"}), [job()]) is None


def test_one_that_ended_just_now_is_the_same_still_but_in_nobodys_way():
    ended = job(state=JobState.DONE)
    assert same_order(SESSION, (RESTORE, REQUEST), [ended]) == ended
    assert [restore._makes(one, "again") for one in (job(), ended)] == [True, False]
    assert not restore._makes(job(), "other")


@pytest.mark.parametrize("vms", [[], [VM]], ids=["before its VM is made", "half-made"])
@pytest.mark.parametrize(
    ("maker", "words", "remedy"),
    [(job(), "has not ended", "mover job cancel"), (job(is_ending=True), "is being ended", "mover job show")],
    ids=["goes on", "ends"],
)
def test_no_second_restore_makes_a_vm_of_a_name_that_an_unfinished_one_makes(vms, maker, words, remedy):
    with pytest.raises(TargetExists, match=words) as refused:
        restore._check_name("again", vms, [maker])
    assert f"{remedy} {maker.id}" in refused.value.remedy


def test_a_name_that_nobody_has_is_free():
    restore._check_name("again", [], [])
    with pytest.raises(TargetExists, match="exists already"):
        restore._check_name("again", [VM], [])
