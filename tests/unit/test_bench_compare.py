"""Verdicts over two runs of a bench: faster, slower, noise, too few."""

from __future__ import annotations

import random

import pytest
import typer

from bench import compare
from bench.results import Results, read_all, write
from tests.support.benchresults import results


def verdicts(before: Results, after: Results, **given: float) -> dict[str, str]:
    lines = compare.compare([before], [after], **({"alpha": 0.05, "least": 0.05} | given))
    return {line.name.removeprefix("test."): line.verdict for line in lines}


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
