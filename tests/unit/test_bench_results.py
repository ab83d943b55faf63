"""The bench kit's own parts: the form of results, verdicts, words, pictures, the page."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import subprocess
from itertools import pairwise

import pytest
import typer

from bench import compare, kit, report, report_html, soak, words
from bench.measure import Run
from bench.results import Results, Series, read, read_all, write
from bench.scale import reason
from mover.errors import SpaceShort, UsageError


def results(**series: list[float]) -> Results:
    """Rates by name, higher is better."""
    made = Results.begin("test", "python -m bench.test")
    made.machine.load_before = 0.0
    for name, samples in series.items():
        for sample in samples:
            made.add(f"test.{name}", sample, "B/s", "higher", depth=4)
    return made


def verdicts(before: Results, after: Results, **given: float) -> dict[str, str]:
    lines = compare.compare([before], [after], **({"alpha": 0.05, "least": 0.05} | given))
    return {line.name.removeprefix("test."): line.verdict for line in lines}


# --- the form


def test_what_is_written_is_read_again(tmp_path):
    made = results(one=[1.0, 2.0])
    made.note("quick")
    made.note("quick")
    write(tmp_path / "a.json", made)
    assert read(tmp_path / "a.json") == made
    assert made.notes == ["quick"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_samples_of_one_series_are_told_by_name_and_circumstances():
    made = Results.begin("test", "")
    made.add("a", 1, "s", "lower", depth=1, by="fio")
    made.add("a", 2, "s", "lower", by="fio", depth=1)
    made.add("a", 3, "s", "lower", by="fio", depth=2)
    assert [series.samples for series in made.series] == [[1, 2], [3]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "JSON"),
        ("[]", "object"),
        ('{"format": "mover-bench/2"}', "mover-bench/1"),
        ("nonsense", "JSON"),
    ],
)
def test_what_is_no_result_is_refused_in_words(tmp_path, content, said):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UsageError, match=said):
        read(tmp_path / "a.json")


def test_a_number_that_is_none_is_refused(tmp_path):
    write(tmp_path / "a.json", results(one=[1.0]))
    text = (tmp_path / "a.json").read_text().replace("1.0\n", "NaN\n")
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UsageError, match="finite"):
        read(tmp_path / "a.json")


def test_a_folder_of_results_is_read_together(tmp_path):
    for name in ("b", "a"):
        write(tmp_path / f"{name}.json", results(one=[1.0]))
    assert len(read_all(tmp_path)) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no \*\.json"):
        read_all(tmp_path / "empty")


def test_a_result_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(UsageError, match="cannot be written"):
        write(tmp_path / "missing" / "a.json", results(one=[1.0]))
    broken = results(one=[1.0])
    broken.series[0].samples.append(float("nan"))
    with pytest.raises(ValueError, match="Out of range"):
        write(tmp_path / "a.json", broken)
    assert list(tmp_path.iterdir()) == []


# --- verdicts


def test_what_differs_clearly_is_faster_or_slower_by_its_better_side():
    slow, fast = [10.0, 10.1, 10.2, 10.3, 10.4, 10.5], [20.0, 20.1, 20.2, 20.3, 20.4, 20.5]
    before, after = results(up=slow, down=fast), results(up=fast, down=slow)
    assert verdicts(before, after) == {"up": "faster", "down": "slower"}
    for run in (before, after):
        for series in run.series:
            series.better = "lower"
    assert verdicts(before, after) == {"up": "slower", "down": "faster"}


def test_noise_is_called_noise():
    """A hundred series without any difference: the share of false alarms is held over all together."""
    dice = random.Random(5)
    names = [f"n{number}" for number in range(100)]
    a, b = (results(**{name: [dice.gauss(100, 10) for _ in range(8)] for name in names}) for _ in range(2))
    assert set(verdicts(a, b).values()) == {"noise"}


def test_a_real_difference_that_does_not_matter_is_noise():
    a, b = [100 + n / 100 for n in range(8)], [101 + n / 100 for n in range(8)]
    assert verdicts(results(x=a), results(x=b)) == {"x": "noise"}
    assert verdicts(results(x=a), results(x=b), least=0.001) == {"x": "faster"}


def test_three_samples_prove_nothing_and_it_says_so():
    [line] = compare.compare([results(x=[1.0, 1.1, 1.2])], [results(x=[2.0, 2.1, 2.2])], alpha=0.05, least=0.05)
    assert line.verdict == "too few"
    assert "all of B better than all of A, which 3 and 3 samples cannot prove" in line.why
    assert compare.least_p(3, 3) == pytest.approx(0.1)
    assert compare.least_p(4, 4) < 0.05


def test_runs_of_a_folder_are_pooled(tmp_path):
    for side, level in (("a", 10.0), ("b", 20.0)):
        (tmp_path / side).mkdir()
        for number in range(5):
            write(tmp_path / side / f"{number}.json", results(x=[level + number / 10]))
    lines = compare.compare(read_all(tmp_path / "a"), read_all(tmp_path / "b"), alpha=0.05, least=0.05)
    assert [line.verdict for line in lines] == ["faster"]
    assert lines[0].low > 0.8
    assert lines[0].high < 1.2


def test_samples_that_are_all_alike_are_noise():
    assert verdicts(results(x=[1.0] * 6), results(x=[1.0] * 6)) == {"x": "noise"}


def test_what_explains_others_is_not_judged():
    before, after = results(x=[1.0] * 5), results(x=[9.0] * 5)
    before.series[0].better = after.series[0].better = "neither"
    assert verdicts(before, after) == {}


def _compare(capsys, *arguments: object) -> tuple[int, str]:
    with pytest.raises(typer.Exit) as ended:
        compare.main(*arguments, alpha=0.05, least=0.05, strict=False)
    said = capsys.readouterr()
    return ended.value.exit_code, said.out + said.err


def test_exit_codes_for_a_pipeline(tmp_path, capsys):
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    write(good, results(x=[10.0, 10.1, 10.2, 10.3, 10.4]))
    write(bad, results(x=[5.0, 5.1, 5.2, 5.3, 5.4]))
    assert _compare(capsys, good, good)[0] == 0
    assert _compare(capsys, bad, good)[0] == 0
    code, said = _compare(capsys, good, bad)
    assert code == 1
    assert "1 slower" in said
    code, said = _compare(capsys, good, tmp_path / "none.json")
    assert code == 2
    assert "cannot be read" in said
    other = results()
    other.add("other", 1.0, "s", "lower")
    write(tmp_path / "other.json", other)
    code, said = _compare(capsys, good, tmp_path / "other.json")
    assert code == 2
    assert "no series in common" in said


def test_two_machines_are_told(tmp_path):
    before, after = results(x=[1.0]), results(x=[1.0])
    after.machine.cores += 2
    after.machine.load_before = 50.0
    after.settings = {"budget": "1MiB"}
    said = "\n".join(compare.differences([before], [after]))
    assert "cores" in said
    assert "other work went on" in said
    assert "setting budget: None and 1MiB" in said


# --- words


@pytest.mark.parametrize(
    ("number", "unit", "said"),
    [
        (930e6, "B/s", "930 MB/s"),
        (0.0012, "s", "1.2 ms"),
        (7.5e-6, "s", "7.5 us"),
        (2.5, "s", "2.50 s"),
        (120, "us", "120 us"),
        (0.87, "share", "87%"),
        (2.5, "ratio", "2.50 x"),
        (1 << 20, "bytes", "1.00 MiB"),
        (0, "B/s", "0"),
    ],
)
def test_values_in_words(number, unit, said):
    assert words.value(number, unit) == said


def test_circumstances_in_words():
    assert (
        words.circumstances({"size_bytes": 1 << 20, "latency_ms": 2, "by": "fio"}) == "size 1 MiB, latency 2 ms, by fio"
    )


@pytest.mark.parametrize(
    ("better", "samples", "met"),
    [("higher", [1, 3], True), ("higher", [1], False), ("lower", [3], False), ("neither", [3], None)],
)
def test_targets(better, samples, met):
    assert words.is_met(Series(name="a", unit="s", better=better, samples=samples, target=2)) is met


# --- pictures and the page


def _varied() -> Results:
    made = Results.begin("test", "python -m bench.test --out <b>.json")
    for size in (1 << 18, 1 << 22):
        for depth in (1, 4, 16):
            for by in ("fio", "threads"):
                for sample in (1e8, 1.1e8 * depth):
                    made.add("test.lines", sample, "B/s", "higher", size_bytes=size, depth=depth, by=by)
    for name in ("a", "b"):
        made.add("test.bars", 0.5, "share", "higher", of=name).target = 0.9
    for number in range(30):
        made.add("test.rounds", 1e6 + number, "bytes", "lower").in_order_of = "round"
    made.add("test.single", 1.0, "s", "lower")
    made.note("<script>alert(1)</script>")
    return made


def test_the_page_needs_nothing_from_elsewhere_and_shows_all(tmp_path, capsys):
    write(tmp_path / "a.json", _varied())
    report_html.main([tmp_path / "a.json"], tmp_path / "page.html", tmp_path / "pictures")
    page = (tmp_path / "page.html").read_text()
    assert not re.search(r"""(src|href|srcset)=["'](?!data:|#)""", page)
    assert "url(" not in page
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("data:image/png") == 6
    assert "Targets missed: test.bars" in page
    images = {path.name: path.read_bytes() for path in (tmp_path / "pictures").iterdir()}
    assert set(images) == {f"test-test.{name}.png" for name in ("lines", "bars", "rounds")}
    assert all(png.startswith(b"\x89PNG") for png in images.values())


# --- the frame


def test_what_stops_a_bench_is_said_in_words(tmp_path, capsys):
    def ended(error: BaseException) -> tuple[int, str]:
        with pytest.raises(typer.Exit) as end, kit.said_in_words():
            raise error
        return end.value.exit_code, capsys.readouterr().err

    assert ended(KeyboardInterrupt()) == (130, "Stopped before the end: nothing was written.\n")
    code, said = ended(OSError(errno.ENOSPC, "No space left on device", "/data/x"))
    assert code == 1
    assert "No space left on device (/data/x)" in said
    code, said = ended(ExceptionGroup("many", [UsageError("wrong", remedy="Do it right.")]))
    assert code == 2
    assert "Do it right." in said
    code, said = ended(subprocess.CalledProcessError(3, ["fio", "x"], stderr="one\ntwo"))
    assert "exit code 3: fio x" in said
    assert "two" in said


def test_an_error_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), kit.said_in_words():
        raise ZeroDivisionError
    with pytest.raises(OSError, match="bad"), kit.said_in_words():
        raise OSError(errno.EIO, "bad")


def test_a_place_that_cannot_be_is_told_before_the_work(tmp_path):
    for place in (tmp_path, tmp_path / "missing" / "a.json"):
        with pytest.raises(UsageError):
            kit.check_place(place)


def test_a_full_disk_is_told_before_the_work(tmp_path):
    with pytest.raises(SpaceShort, match="free, this needs"), kit.work_folder(tmp_path, 1 << 60):
        raise AssertionError
    assert list(tmp_path.iterdir()) == []


def test_a_work_folder_is_gone_whatever_happens(tmp_path):
    def stopped() -> None:
        with kit.work_folder(tmp_path, 0) as place:
            (place / "file").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert list(tmp_path.iterdir()) == []


def test_a_bench_that_fails_writes_nothing(tmp_path):
    def failing() -> None:
        with kit.bench("test", tmp_path / "a.json", quick=True) as run:
            run.add("a", 1.0, "s", "lower")
            raise UsageError("wrong", remedy="Do it right.")

    with pytest.raises(typer.Exit):
        failing()
    assert list(tmp_path.iterdir()) == []


# --- what soak and scale conclude


def _states(memory: list[float], descriptors: list[int] | None = None, **last: int) -> list[soak.State]:
    count = len(memory)
    states = [
        soak.State(n * 10.0, int(memory[n]), descriptors[n] if descriptors else 10, 5, 0, 0, 0) for n in range(count)
    ]
    return [*states[:-1], soak.State(**({f: getattr(states[-1], f) for f in soak.State.__slots__} | last))]


def _judged(states: list[soak.State]) -> list[str]:
    growth = soak.slope([state.seconds for state in states], [state.memory for state in states])
    return soak.broken(states, growth)


@pytest.mark.parametrize("rounds", [0, 1, 7, 8, 9, 100, 1000])
def test_a_soak_keeps_few_states_evenly_and_the_last(rounds):
    watched = soak.Watched(most=8)
    for state in _states([float(number) for number in range(rounds)]) if rounds else []:
        watched.add(state)
    kept = [state.memory for state in watched.states]
    assert watched.rounds == rounds
    assert len(kept) <= 9
    assert kept[:1] == list(range(rounds))[:1]
    assert kept[-1:] == list(range(rounds))[-1:]
    assert len({after - before for before, after in pairwise(kept[:-1])}) <= 1


def test_a_soak_that_holds():
    dice = random.Random(3)
    steady = [2e8 + dice.gauss(0, 1e5) for _ in range(300)]
    flicker = [10 + n % 3 for n in range(300)]
    assert _judged(_states(steady, flicker)) == []


def test_a_warm_up_is_no_leak():
    warm = [2e8 + min(n, 80) * 1e6 for n in range(300)]
    assert _judged(_states(warm)) == []


@pytest.mark.parametrize(
    ("states", "said"),
    [
        (_states([2e8 + n * 4096 * 16 for n in range(300)]), "memory grows"),
        (_states([2e8] * 300, list(range(300))), "descriptors grow"),
        (_states([2e8] * 10, budget=1), "never given back"),
        (_states([2e8] * 10, sessions=2), "2 sessions are open"),
    ],
)
def test_a_soak_that_breaks(states, said):
    assert any(said in problem for problem in _judged(states))


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ({"kept": 0.95}, "the disks give no more"),
        ({"cores": 0.97, "computing": 1.0}, "the cores are busy"),
        ({"computing": 0.95, "cores": 0.4}, "compute threads are busy"),
        ({"budget_wait": 0.5}, "raise data.budget"),
        ({"reading": 0.95}, "woken late"),
        ({}, "handing over"),
    ],
)
def test_why_it_is_flat(shares, said):
    none = dict.fromkeys(("kept", "cores", "computing", "reading", "budget_wait"), 0.1)
    assert said in reason(none | shares)


def test_the_form_is_the_one_that_the_readme_describes(tmp_path):
    write(tmp_path / "a.json", results(one=[1.0]))
    found = json.loads((tmp_path / "a.json").read_text())
    readme = (kit.ROOT / "bench" / "README.md").read_text()
    for member in (*found, *found["series"][0]):
        assert f"`{member}`" in readme, member


# --- end to end: the limit, and where the rest goes


def end_to_end_runs() -> list[Run]:
    """Two rounds; in the second everything takes twice as long, but for the CPU."""
    runs = []
    for round_, slower in ((1, 1.0), (2, 2.0)):
        for who, what, wall, cpu in (
            ("limit", "fio read of packs", 0.5, 0.1),
            ("limit", "fio write", 1.2, 0.2),
            ("limit", "open blocks", 1.5, 3.0),
            ("limit", "fio read and write", 2.0, 0.5),
            ("limit", "restore", 2.0, 3.5),
            ("mover", "restore", 2.5, 5.0),
        ):
            more = {"stages": {"opened": 3.25, "skipped": 0.0}} if who == "mover" else {}
            runs.append(Run(who, what, round_, wall * slower, cpu, 0.0, more=more))
    return runs


def test_a_restore_is_held_against_its_limit_within_each_round():
    goals = report.goals(end_to_end_runs())
    assert goals["restore: limit / ours"].samples == [0.8, 0.8]
    assert goals["restore: CPU of the limit's parts / ours"].samples == [0.7, 0.7]
    assert not [name for name in goals if name.startswith("full")]


def test_where_a_restore_goes_is_told_by_part_and_stage():
    lines = report.where_it_goes(end_to_end_runs())
    assert "| fio write, alone | 1.80 | 0.20 |" in lines
    assert "| fio read and write, alone | 3.00 | 0.50 |" in lines
    assert "| ours beyond the parts: Python, self-checks, index, manifest | | 1.50 |" in lines
    assert "| threads' seconds in opened | 3.25 | |" in lines
    assert not [line for line in lines if "skipped" in line or "a full goes" in line]
    assert report.where_it_goes([run for run in end_to_end_runs() if run.what != "fio write"]) == []


def test_work_beside_a_bench_is_noted(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    for load, is_noted in ((0.9, False), (1.5, True)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        with kit.bench("test", None, quick=False, shows=False) as run:
            pass
        assert ["other work goes on" in note for note in run.results.notes] == [True] * is_noted


def test_a_page_names_who_missed_what_and_settings_by_their_dots(tmp_path):
    made = Results.begin("test", "", data={"level": 1, "budget": None}, only="")
    for who, seconds in (("ours", 1.0), ("other", 3.0)):
        made.add("test.wall", seconds, "s", "lower", who=who, operation="full").target = 2.0
    page = report_html.page([(made, [])])
    assert "Targets missed: test.wall (other, full)." in page
    assert "<dt>Settings</dt><dd>data.level 1</dd>" in page
    assert words.value(0.0, "share") == "0%"
