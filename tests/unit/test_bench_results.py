"""What benches write and what is told of it: the form of results, words, pictures, the page."""

from __future__ import annotations

import json
import re

import pytest

from bench import kit, report, report_html, words
from bench.measure import Run
from bench.results import Results, Series, read, read_all, write
from mover.errors import UsageError
from tests.support.benchresults import results

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
        (12034, "count", "12,034"),
        (36.25, "count", "36.25"),
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
    assert page.count("<th>target</th>") == 1, "a column of nothing"
    images = {path.name: path.read_bytes() for path in (tmp_path / "pictures").iterdir()}
    assert set(images) == {f"test-test.{name}.png" for name in ("lines", "bars", "rounds")}
    assert all(png.startswith(b"\x89PNG") for png in images.values())


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
    assert "| fio read and write, at once | 3.00 | 0.50 |" in lines
    assert "| ours beyond the parts: Python, self-checks, index, manifest | | 1.50 |" in lines
    assert "| threads' seconds in opened | 3.25 | |" in lines
    assert not [line for line in lines if "skipped" in line or "a full goes" in line]
    older = report.where_it_goes([run for run in end_to_end_runs() if run.what != "fio write"])
    assert older == [line for line in lines if "fio write," not in line]
    assert report.where_it_goes([run for run in end_to_end_runs() if run.what != "open blocks"]) == []


def test_a_page_names_who_missed_what_and_settings_by_their_dots(tmp_path):
    made = Results.begin("test", "", data={"level": 1, "budget": None}, only="")
    for who, seconds in (("ours", 1.0), ("other", 3.0)):
        made.add("test.wall", seconds, "s", "lower", who=who, operation="full").target = 2.0
    page = report_html.page([(made, [])])
    assert "Targets missed: test.wall (other, full)." in page
    assert "<dt>Settings</dt><dd>data.level 1</dd>" in page
    assert words.value(0.0, "share") == "0%"
