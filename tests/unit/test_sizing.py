"""``bench plan``: more to do never needs less, and what was typed or measured wrongly is told in words."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from mover.errors import UsageError
from mover.operations.sizing import Figures, Wish, plan
from tests.support.commandline import invoke

FIGURES = Figures(
    cores=2,
    block_bytes=1 << 20,
    audit_blocks=64,
    compare_within_s=90 * 86400.0,
    new_rate=300e6,
    check_rate=900e6,
    restore_rate=600e6,
    stored_share=0.4,
    spread=3.0,
    core_share=0.9,
    peak_bytes=160 << 20,
)
WISH = Wish(vms=200, data_bytes=80e12, change=0.03, window_s=8 * 3600.0, retention_days=30, vms_together=2)
RUN = {"seconds": 2.0, "cpu_s": 3.6, "bytes_moved": 2e9, "bytes_new": 1e9, "bytes_stored": 4e8, "peak_bytes": 1 << 27}
ANSWER = {
    "settings": {"cores": 2, "block_size": 1 << 20, "audit_blocks": 64, "compare_within": 7776000.0},
    "runs": [
        {**RUN, "run": "full"},
        {**RUN, "run": "full again"},
        {**RUN, "run": "incremental", "bytes_changed": 4e8},
        {**RUN, "run": "restore"},
    ],
}

wishes = some.builds(
    Wish,
    vms=some.integers(1, 100_000),
    data_bytes=some.floats(1e9, 1e17),
    change=some.floats(1e-4, 1.0),
    window_s=some.floats(600, 86400),
    retention_days=some.floats(1, 4000),
    vms_together=some.integers(1, 16),
    per_vm_s=some.floats(0, 600),
)
COMPARED = ("nodes", "new_bytes", "check_bytes", "read_rate", "first_bytes", "daily_bytes", "kept_bytes")


@given(wishes, some.floats(1.0, 50.0))
def test_more_data_never_needs_less(wish, times):
    less, more = plan(FIGURES, wish), plan(FIGURES, replace(wish, data_bytes=wish.data_bytes * times))
    assert all(getattr(more, name) >= getattr(less, name) for name in COMPARED)


@given(wishes, some.floats(1.0, 10.0))
def test_more_change_never_needs_less(wish, times):
    more = plan(FIGURES, replace(wish, change=min(1.0, wish.change * times)))
    assert all(getattr(more, name) >= getattr(plan(FIGURES, wish), name) for name in COMPARED)


@given(wishes, some.integers(1, 1000))
def test_more_vms_and_a_shorter_window_never_need_fewer_nodes(wish, count):
    nodes = plan(FIGURES, wish).nodes
    assert plan(FIGURES, replace(wish, vms=wish.vms + count)).nodes >= nodes
    assert plan(FIGURES, replace(wish, window_s=wish.window_s / (1 + count))).nodes >= nodes


@given(wishes, some.floats(1.0, 10.0))
def test_a_faster_node_is_never_needed_more_often(wish, times):
    faster = replace(FIGURES, new_rate=FIGURES.new_rate * times, check_rate=FIGURES.check_rate * times)
    assert plan(faster, wish).nodes <= plan(FIGURES, wish).nodes


@given(wishes)
def test_the_daily_run_ends_in_the_window_with_the_spare_left(wish):
    found = plan(FIGURES, wish)
    assert found.run_s <= wish.usable_s * (1 + 1e-9)
    assert found.nodes == 1 or found.run_s * found.nodes / (found.nodes - 1) > wish.usable_s
    assert found.kept_bytes >= found.first_bytes > 0


def test_by_hand():
    found = plan(FIGURES, WISH)
    # 80 TB x 3 % x 3 blocks touched = 7.2 TB at 300 MB/s; 1/90 of 80 TB and 200 x 3 x 64 MiB at 900 MB/s.
    compared = 80e12 / 90 + 200 * 3 * 64 * (1 << 20)
    assert found.new_bytes == pytest.approx(7.2e12)
    assert found.check_bytes == pytest.approx(compared)
    assert found.nodes == 2  # 25,033 s of 23,040 usable
    assert found.run_s == pytest.approx((7.2e12 / 300e6 + compared / 900e6) / 2)
    assert found.daily_bytes == pytest.approx(2.88e12)
    assert found.first_bytes == pytest.approx(32e12)
    assert found.kept_bytes == pytest.approx(32e12 + 29 * 2.88e12)
    assert found.bottleneck.startswith("the nodes' cores")


def test_the_bottleneck_is_named():
    many = replace(WISH, vms=20_000, data_bytes=1e12)
    assert "VMs" in plan(FIGURES, many).bottleneck
    assert "disks or the store" in plan(replace(FIGURES, core_share=0.3), WISH).bottleneck


def test_other_cores_are_an_assumption_that_is_said():
    found = plan(FIGURES, replace(WISH, cores=8))
    assert (found.nodes, found.cores) == (1, 8)
    assert any("not measured" in line for line in found.assumptions)


def test_figures_come_from_the_bench():
    found = Figures.of(ANSWER)
    assert (found.new_rate, found.check_rate, found.stored_share, found.spread) == (5e8, 1e9, 0.4, 2.5)
    assert found.core_share == pytest.approx(0.9)


@pytest.mark.parametrize(
    "broken", [{}, {"runs": 3}, {**ANSWER, "runs": ANSWER["runs"][:2]}, {**ANSWER, "settings": {}}]
)
def test_other_json_is_no_figures(broken):
    with pytest.raises(UsageError, match="no figures of a bench"):
        Figures.of(broken)


@pytest.mark.parametrize("figure", [0, -5, "x", None, 1e308, float("nan")])
@pytest.mark.parametrize("name", ["seconds", "cores", "block_size", "bytes_new"])
def test_figures_that_cannot_be_are_refused(name, figure):
    """Two negative ones too, whose ratio looks right."""
    broken = json.loads(json.dumps(ANSWER))
    for place in (broken["settings"], *broken["runs"]):
        place.update({key: figure for key in place if key == name})
    with pytest.raises(UsageError, match="no figures of a bench"):
        Figures.of(broken)


# --- as it is typed --------------------------------------------------------------------------------------


@pytest.fixture
def figures(tmp_path):
    path = tmp_path / "node.json"
    path.write_text(json.dumps(ANSWER))
    return path


def planned(figures, *more):
    return invoke("bench", "plan", "--vms", "200", "--tb", "80", "--figures", figures, *more)


def test_a_plan_for_people_and_for_programs(figures):
    shown = planned(figures, "--change", "3%", "--window", "8")
    assert shown.code == 0, shown.err
    assert "nodes" in shown.out
    assert "Bottleneck: the nodes' cores" in shown.out
    assert "Assumed:" in shown.out
    value = planned(figures, "--change", "0.03", "--window", "8h", "--json").json
    assert value["nodes"] == 1
    assert value["wish"]["window_s"] == 28800
    assert value["assumptions"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--change", "3"], "--change must be"),
        (["--change", "much"], "--change much: no share"),
        (["--change", "nan"], "--change must be"),
        (["--window", "25h"], "--window must be"),
        (["--window", "soon"], "is not a duration"),
        (["--retention", "0"], "--retention must be"),
        (["--cores", "0"], "--cores must be"),
        (["--tb", "-1"], "--tb must be"),
        (["--tb", "1e300"], "--tb must be"),
        (["--vms", "0"], "--vms must be"),
        (["--vms", "9" * 400], "--vms must be"),
        (["--figures", "/nowhere.json"], "cannot be read"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(figures, words, said):
    planned(figures, *words).refuses(2, "usage", said)


def test_a_file_that_is_no_json(figures):
    figures.write_text("nodes: 3")
    planned(figures).refuses(2, "usage", "is not JSON")
    figures.write_text("[]")
    planned(figures).refuses(2, "usage", "holds no figures")
