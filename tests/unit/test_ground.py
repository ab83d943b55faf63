"""Errors, units and clocks: small promises that everything else leans on."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mover import errors, units
from mover.clock import FakeClock, SystemClock, from_iso, iso
from mover.errors import LoginRefused, MoverError, UsageError, all_errors
from mover.model.machine import Slot


def test_every_error_has_its_own_code_and_its_family_decides_the_exit_code():
    kinds = all_errors()
    assert len({kind.code for kind in kinds}) == len(kinds)
    for kind in kinds[1:]:
        family = kind.__mro__[kind.__mro__.index(MoverError) - 1]
        assert kind.exit_code == family.exit_code != 0
        assert kind.__doc__


def test_an_error_without_a_remedy_is_refused():
    with pytest.raises(ValueError, match="remedy"):
        MoverError("something", remedy=" ")


def test_errors_survive_a_pickle_with_their_facts():
    error = LoginRefused("no", remedy="yes", retryable=True, tries=1)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is LoginRefused
    assert again.as_dict() == error.as_dict()


def test_every_error_is_known_by_the_name_that_is_kept_of_it():
    kinds = all_errors()
    assert {kind.__name__ for kind in kinds} == set(errors.__all__) - {"all_errors"}
    assert [kind for kind in kinds if getattr(errors, kind.__name__) is not kind] == []
    assert {kind.__module__ for kind in kinds} == {"mover.errors"}


def test_an_error_that_a_state_folder_keeps_is_read_whichever_module_its_family_stands_in():
    kept = b"cmover.errors\n_rebuild\n(cmover.errors\nLoginRefused\nVno\nVyes\nI01\n(dVtries\nI1\nstR."
    again = pickle.loads(kept)
    assert type(again) is LoginRefused
    assert (again.remedy, again.facts) == ("yes", {"tries": 1})


@pytest.mark.parametrize(
    ("text", "size"), [("1MiB", 1 << 20), ("32m", 32 << 20), ("1.5 GB", 3 << 29), ("512", 512), (7, 7), ("0", 0)]
)
def test_sizes_are_read(text, size):
    assert units.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1 parsec", "MiB"])
def test_what_is_no_size_or_duration_is_refused(text):
    with pytest.raises(UsageError):
        units.parse_size(text)
    with pytest.raises(UsageError):
        units.parse_duration(text)


@given(st.integers(0, 1 << 62))
def test_written_sizes_are_short_and_near(size):
    text = units.format_size(size)
    assert len(text) <= 8
    assert units.parse_size(text) == pytest.approx(size, rel=0.06)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.9, "9.9 s"), (59.4, "59 s"), (185, "3:05"), (7384, "2:03:04")]
)
def test_durations_are_written(seconds, text):
    assert units.format_duration(seconds) == text


async def test_a_fake_clock_jumps_and_repeats_with_its_seed():
    one, two = FakeClock(7), FakeClock(7)
    await one.sleep(3600)
    assert one.monotonic() == 3600
    assert one.now() - two.now() == 3600
    assert [one.new_uuid(), one.random().random()] == [two.new_uuid(), two.random().random()]
    assert SystemClock().new_uuid() != SystemClock().new_uuid()


def test_times_round_trip():
    assert from_iso(iso(1_760_000_000)) == 1_760_000_000
    assert from_iso("2026-01-02T03:04:05") == from_iso("2026-01-02T04:04:05+01:00")


def test_slots_are_read_as_written():
    assert str(Slot.parse("SCSI.3")) == "scsi.3"
    for text in ("scsi", "scsi.", ".3", "scsi.x", "3.scsi"):
        with pytest.raises(ValueError, match="slot"):
            Slot.parse(text)
