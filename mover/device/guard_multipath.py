"""Would multipathd take a guest's disk? Reads multipath.conf, or what ``multipath -t`` says is in force."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

_WORD = re.compile(r'"(?:[^"]|"")*"|[{}]|[^\s{}"]+')
_CLAIMS_SINGLE = {"off", "no", "greedy", "smart"}
"""off and greedy make a map of every disk; smart holds each one back for a while."""
_SAMPLE_NODE = "sdb"
_SAMPLE_WWID = "36506b8d0123456789abcdef012345678"

REMEDY = """Put into /etc/multipath.conf:
    blacklist {
        device {
            vendor "NUTANIX"
            product "VDISK"
        }
    }
then run: multipathd reconfigure"""


@dataclass(frozen=True, slots=True)
class Section:
    """``name { key value … }``: values in order, sections nested."""

    name: str
    values: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]

    def each(self, name: str) -> Iterator[Section]:
        return (section for section in self.sections if section.name == name)


def parse_multipath(text: str) -> Section:
    """The whole configuration as one nameless section. What is malformed is left out."""
    lines = (re.sub(r'^((?:[^"#!]|"[^"]*")*)[#!].*$', r"\1", line) for line in text.splitlines())
    return _section("", iter([[word.strip('"') for word in _WORD.findall(line)] for line in lines]))


def _section(name: str, lines: Iterator[list[str]]) -> Section:
    values: list[tuple[str, str]] = []
    sections: list[Section] = []
    waiting = ""
    for words in lines:
        if not words:
            continue
        if words[-1] == "{":
            sections.append(_section(words[0] if len(words) > 1 else waiting, lines))
        elif words[0] == "}":
            break
        elif len(words) == 1:
            waiting = words[0]
        else:
            values.append((words[0], words[1]))
    return Section(name, tuple(values), tuple(sections))


def is_blacklisted(config: Section) -> bool:
    """Whether a NUTANIX VDISK is excluded and nothing takes that back."""
    listed = any(_matches(section) for section in config.each("blacklist"))
    excepted = any(_matches(section) for section in config.each("blacklist_exceptions"))
    return listed and not excepted


def _matches(section: Section) -> bool:
    for device in section.each("device"):
        wanted = dict(device.values)
        if _search(wanted.get("vendor", "^$"), "NUTANIX") and _search(wanted.get("product", ".*"), "VDISK"):
            return True
    subjects = {"devnode": _SAMPLE_NODE, "wwid": _SAMPLE_WWID}
    return any(_search(pattern, subjects[key]) for key, pattern in section.values if key in subjects)


def _search(pattern: str, text: str) -> bool:
    negated = pattern.startswith("!")
    try:
        found = re.search("" if pattern == "*" else pattern.removeprefix("!"), text) is not None
    except re.error:
        return False
    return found is not negated


def find_multipaths(config: Section) -> str | None:
    """The value in force, lower case; None when it is not stated."""
    values = [value for section in config.each("defaults") for key, value in section.values if key == "find_multipaths"]
    return values[-1].lower() if values else None


def judge(config: Section) -> tuple[Literal["ok", "problem"], str, str]:
    """(state, what, remedy). Unstated counts as off: built-in defaults differ between distributions."""
    if is_blacklisted(config):
        return "ok", "multipath leaves Nutanix disks alone.", ""
    mode = find_multipaths(config) or "off"
    if mode in _CLAIMS_SINGLE:
        return "problem", f"multipath would take a guest's disk (find_multipaths {mode}, no blacklist).", REMEDY
    return "ok", f"multipath takes no disk with a single path (find_multipaths {mode}).", ""
