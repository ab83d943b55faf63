"""One self-contained page of any results: pictures, tables, the machine. Nothing is fetched from anywhere.

python -m bench.report_html RESULT.json... --out report.html
"""

from __future__ import annotations

import base64
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import jinja2
import typer

from bench import words
from bench.kit import check_place, said_in_words
from bench.plots import Picture, pictures
from bench.results import Results, Series, read
from mover.files import write_whole
from mover.units import format_duration, format_size

_TEMPLATE = Path(__file__).with_name("report.html.j2")


Drawn = Sequence[tuple[Results, Sequence[Picture]]]
"""Results with their pictures."""


def page(drawn: Drawn) -> str:
    """The whole document."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(_TEMPLATE.read_text("utf-8"))
    return template.render(runs=[_run(results, found) for results, found in drawn])


def _run(results: Results, found: Sequence[Picture]) -> dict[str, Any]:
    machine = results.machine
    facts = [
        ("Machine", f"{machine.processor}, {machine.cores} cores, {format_size(machine.memory_bytes)}"),
        ("Kernel", f"Linux {machine.kernel}"),
        ("Load", f"{machine.load_before:g} before, {machine.load_after:g} after"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in results.versions.items())),
        ("Settings", ", ".join(_flat(results.settings))),
        ("Command", results.command),
        ("Began", f"{results.started_at}, took {format_duration(results.seconds)}"),
    ]
    return {
        "bench": results.bench,
        "started_at": results.started_at,
        "facts": [(name, value) for name, value in facts if value],
        "notes": results.notes,
        "parts": list(_parts(results, found)),
        "missed": [_named(series) for series in results.series if words.is_met(series) is False],
    }


def _flat(settings: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """``level 1``; of a group within, ``data.level 1``."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        elif value is not None and value != "":
            yield f"{before}{name} {value}"


def _named(series: Series) -> str:
    told = words.circumstances(series.params)
    return f"{series.name} ({told})" if told else series.name


def _parts(results: Results, found: Sequence[Picture]) -> Iterator[dict[str, Any]]:
    drawn = {picture.title: picture for picture in found}
    for name in dict.fromkeys(series.name for series in results.series):
        same = [series for series in results.series if series.name == name]
        yield {
            "name": name,
            "picture": _embedded(drawn.get(name)),
            "rows": [_row(series) for series in same],
            "has_goal": any(series.target is not None for series in same),
        }


def _embedded(picture: Picture | None) -> dict[str, str] | None:
    if picture is None:
        return None
    found: dict[str, str] = {
        theme: f"data:image/png;base64,{base64.b64encode(png).decode()}" for theme, png in picture.png.items()
    }
    return {**found, "words": picture.words}


def _row(series: Series) -> dict[str, Any]:
    low, high = words.spread(series)
    return {
        "circumstances": words.circumstances(series.params) or "as it is",
        "median": words.value(statistics.median(series.samples), series.unit),
        "low": words.value(low, series.unit),
        "high": words.value(high, series.unit),
        "samples": len(series.samples),
        "goal": words.goal(series),
        "is_missed": words.is_met(series) is False,
    }


def _save_pictures(drawn: Drawn, folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    names = [(f"{results.bench}-{picture.title}.png", picture) for results, found in drawn for picture in found]
    for name, picture in names:
        write_whole(folder / name, picture.png["light"])
    return len(names)


def main(
    results: Annotated[list[Path], typer.Argument(metavar="RESULT.json...", help="Made with --out.")],
    out: Annotated[Path, typer.Option(metavar="FILE.html", help="The page.")] = Path("report.html"),
    images: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Also each picture as a PNG.")] = None,
) -> None:
    """Draw results into one page."""
    with said_in_words():
        check_place(out)
        drawn = [(run, list(pictures(run))) for run in [read(path) for path in results]]
        write_whole(out, page(drawn).encode())
        typer.echo(f"{out}: {format_size(out.stat().st_size)}")
        if images is not None:
            typer.echo(f"{images}: {_save_pictures(drawn, images)} pictures")


if __name__ == "__main__":
    typer.run(main)
