"""Writes deploy/REFERENCE.md from the code: settings, error codes, metrics, routes.

usage: python deploy/reference.py [--check]    (make reference; a test runs the check)
"""

from __future__ import annotations

import argparse
import ast
import inspect
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mover import metrics
from mover.api.server import ROUTES
from mover.config import Section, Settings, default_state_dir
from mover.errors import all_errors
from mover.units import format_duration, format_size

TARGET = Path(__file__).with_name("REFERENCE.md")
RULES = TARGET.parent / "prometheus" / "rules"
BOARDS = TARGET.parent / "grafana" / "boards"
HEAD = """# Reference

Written from the code by `make reference`; a test fails when the two differ.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="say whether the file is up to date")
    wanted = parser.parse_args()
    text = "\n".join(pages())
    if wanted.check:
        return 0 if TARGET.read_text("utf-8") == text else 1
    TARGET.write_text(text, "utf-8")
    return 0


def pages() -> Iterator[str]:
    """The document, paragraph by paragraph."""
    yield HEAD
    yield "## Settings\n"
    yield (
        "In `mover.yaml` nested by the dots; in the environment `MOVER_` with `__` for each dot\n"
        "(`MOVER_PRISM__URL`); on the command line `--set NAME=VALUE`. Flags win over environment,\n"
        "environment over secret files (`/run/secrets/mover_prism__password`), those over the file.\n"
    )
    yield table(("setting", "default", "what, and why this default"), settings(Settings))
    yield "## Error codes\n"
    yield "Each error says what happened and what to do; with `--json` the code stands in `error.code`.\n"
    yield table(("code", "exit", "meaning"), errors())
    yield "Exit code 70 is a defect of mover itself, 130 an interruption by Ctrl-C.\n"
    yield "## Metrics\n"
    yield (
        "Alerts are those of [deploy/prometheus](prometheus/README.md) whose expression, or a rule recorded for it,\n"
        "reads the metric; boards are the dashboards of [deploy/grafana](grafana/README.md) that show it,\n"
        "also through a recorded rule. A series that ends, ends at the next scrape: see `serve.series_grace`.\n"
    )
    yield table(("metric", "type", "labels", "unit", "meaning", "alerts", "boards"), instruments())
    yield "## Routes of `mover serve`\n"
    yield table(("route", "answer"), ((f"`{path}`", text) for path, text in ROUTES.items()))


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def settings(section: type[Section], prefix: str = "") -> Iterator[tuple[str, ...]]:
    defaults, why = section(), reasons(section)
    for key in section.model_fields:
        value = getattr(defaults, key)
        if isinstance(value, Section):
            yield from settings(type(value), f"{prefix}{key}.")
        else:
            shown = format_duration(value) if isinstance(value, float) else _default(key, value)
            yield f"`{prefix}{key}`", shown and f"`{shown}`", " ".join(why.get(key, "").split())


def reasons(section: type[Section]) -> dict[str, str]:
    """Setting → what it is and why: the string that stands below it in the source."""
    group = ast.parse(inspect.getsource(section)).body[0]
    assert isinstance(group, ast.ClassDef)
    found = {}
    for setting, below in itertools.pairwise(group.body):
        if isinstance(setting, ast.AnnAssign) and isinstance(setting.target, ast.Name):
            match below:
                case ast.Expr(ast.Constant(str(text))):
                    found[setting.target.id] = inspect.cleandoc(text)
    return found


def _default(key: str, value: Any) -> str:
    if value == default_state_dir():
        return "/var/lib/mover (root)"
    if hasattr(value, "get_secret_value") or value in (None, "", [], {}):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value >= 1024 and key not in ("port",):
        return format_size(value)
    return str(value)


def errors() -> Iterator[tuple[str, ...]]:
    for kind in sorted(all_errors(), key=lambda kind: (kind.exit_code, kind.code)):
        yield f"`{kind.code}`", str(kind.exit_code), " ".join((kind.__doc__ or "").split("\n\n")[0].split())


def instruments() -> Iterator[tuple[str, ...]]:
    used, shown = alerts(RULES), boards(RULES, BOARDS)
    for name, kind, labels, meaning in families():
        named = ", ".join(f"`{alert}`" for alert in sorted(used.get(name, ())))
        on = ", ".join(sorted(shown.get(name, ())))
        yield f"`{name}`", kind, ", ".join(labels), unit(name), meaning, named, on


def families() -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    """(name as it is scraped, type, labels, meaning) of every family."""
    for found in vars(metrics).values():
        if hasattr(found, "_labelnames"):
            name = found._name + ("_total" if found._type == "counter" else "")
            yield name, found._type, found._labelnames, found._documentation
    for family in metrics.PROCESS.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        yield name, family.type, (), family.documentation


UNITS = {
    "timestamp_seconds": "Unix time, s",
    "bytes_per_second": "bytes/s",
    "seconds": "s",
    "bytes": "bytes",
    "ratio": "share, 0 to 1",
    "start_time_seconds": "Unix time, s",
}
"""How a name ends, but for ``_total`` → its unit. Everything else is a count, or 0 and 1."""


def unit(name: str) -> str:
    plain = name.removesuffix("_total")
    ends = [end for end in UNITS if plain.endswith(f"_{end}")]
    return UNITS[max(ends, key=len)] if ends else ""


def alerts(folder: Path) -> dict[str, set[str]]:
    """Metric → the alerts that read it, also through recorded series. Nothing where there are no rules."""
    asked = [(rule["alert"], rule["expr"]) for rule in rules(folder) if "alert" in rule]
    return readers(asked, recorded(folder))


def boards(folder: Path, shown: Path) -> dict[str, set[str]]:
    """Metric → the dashboards that show it, also through recorded series."""
    asked = [
        (path.stem, expression)
        for path in sorted(shown.glob("*.yml"))
        for row in yaml.safe_load(path.read_text("utf-8"))["rows"]
        for panel in row["panels"]
        for expression in panel["queries"].values()
    ]
    return readers(asked, recorded(folder))


def rules(folder: Path) -> list[dict[str, Any]]:
    return [
        rule
        for path in sorted(folder.glob("*.yml"))
        for group in yaml.safe_load(path.read_text("utf-8")).get("groups") or ()
        for rule in group["rules"]
    ]


def recorded(folder: Path) -> dict[str, set[str]]:
    """Recorded series → what they are made from."""
    reads: dict[str, set[str]] = {}
    for rule in rules(folder):
        if "record" in rule:
            reads.setdefault(rule["record"], set()).update(words(rule["expr"]))
    return reads


def readers(asked: list[tuple[str, str]], reads: dict[str, set[str]]) -> dict[str, set[str]]:
    """Metric → who reads it. asked: who, expression."""
    used: dict[str, set[str]] = {}
    for who, expression in asked:
        for name in reached(words(expression), reads):
            used.setdefault(family_of(name), set()).add(who)
    return used


def reached(names: set[str], reads: dict[str, set[str]]) -> set[str]:
    """These names, and what recorded ones among them are made from."""
    found, queue = set[str](), list(names)
    while queue:
        name = queue.pop()
        if name not in found:
            found.add(name)
            queue.extend(reads.get(name, ()))
    return found


def words(expression: str) -> set[str]:
    """What may be the name of a series: not in a string, not after an opening brace or "by"."""
    plain = re.sub(r'"[^"]*"', "", str(expression))
    return set(re.findall(r"[a-zA-Z_][a-zA-Z0-9_:]*", plain))


def family_of(series: str) -> str:
    return re.sub(r"_(bucket|sum|count)$", "", series)


if __name__ == "__main__":
    sys.exit(main())
