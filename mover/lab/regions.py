"""One page of changed regions, and the ways in which it can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mover.lab.answers import Json
from mover.lab.options import LabOptions

Row = tuple[int, int, bool]
"""Offset, length, is all zero; sorted, disjoint."""


@dataclass(frozen=True, slots=True)
class Query:
    path: str
    base_path: str | None = None
    start: int = 0
    end: int | None = None


def page(rows: list[Row], query: Query, size_bytes: int, base_size: int | None, options: LabOptions) -> Json:
    """At most ``regions_per_page`` regions of [start, end), clipped; next_offset only if there is more."""
    end = size_bytes if query.end is None else min(query.end, size_bytes)
    if base_size is None and not options.list_holes:
        rows = [row for row in rows if not row[2]]
    if base_size is not None and not options.list_grown_tail:
        rows = _clipped(rows, 0, base_size)
    window = end
    if options.scan_window_bytes is not None:
        window = min(end, query.start + options.scan_window_bytes)
    inside = _clipped(rows, query.start, window)
    listed = inside[: options.regions_per_page]
    answer: Json = {
        "file_size": size_bytes,
        "region_list": [
            {"offset": offset, "length": length, "type": "ZEROED" if zero else "REGULAR"}
            for offset, length, zero in listed
        ],
    }
    if len(inside) > len(listed):
        answer["next_offset"] = inside[len(listed)][0]
    elif window < end:
        answer["next_offset"] = window
    elif beyond := _clipped(rows, max(end, query.start), size_bytes):
        # Further than the caller looks: helps to skip ahead.
        answer["next_offset"] = beyond[0][0]
    elif options.last_page_says != "nothing":
        answer["next_offset"] = {"null": None, "zero": 0}[options.last_page_says]
    return answer


def _clipped(rows: list[Row], start: int, end: int) -> list[Row]:
    return [
        (max(offset, start), min(offset + length, end) - max(offset, start), zero)
        for offset, length, zero in rows
        if offset < end and offset + length > start
    ]


@dataclass(frozen=True, slots=True)
class _Lie:
    """How to spoil a page: the fault's parameters, what was asked, and the lab's seed."""

    args: dict[str, Any]
    query: Query
    seed: int


def lie(answer: Json, bites: dict[str, dict[str, Any]], query: Query, seed: int) -> Json:
    """Spoil a page by the faults that bite."""
    for name, args in bites.items():
        if name in _SPOILERS:
            _SPOILERS[name](answer, _Lie(args, query, seed))
    return answer


def _cut_short(answer: Json, _how: _Lie) -> None:
    answer["region_list"] = answer["region_list"][: len(answer["region_list"]) // 2]
    answer.pop("next_offset", None)


def _overlapping(answer: Json, _how: _Lie) -> None:
    twice = []
    for region in answer["region_list"]:
        if region["type"] == "REGULAR":
            half = max(1, region["length"] // 2)
            twice.append({**region, "offset": region["offset"] + region["length"] - half, "length": half})
    answer["region_list"] = [*answer["region_list"], *twice]


def _unsorted(answer: Json, _how: _Lie) -> None:
    answer["region_list"].reverse()


def _unaligned(answer: Json, _how: _Lie) -> None:
    """Odd edges that cover no less than before."""
    for region in answer["region_list"]:
        if region["type"] == "REGULAR" and region["offset"] >= 512:
            region["offset"] -= 511
            region["length"] += 511


def _beyond_end(answer: Json, how: _Lie) -> None:
    size = answer["file_size"]
    offset = size + 4096 if how.args["begins_beyond"] else max(0, size - 4096)
    answer["region_list"].append({"offset": offset, "length": 1 << 20, "type": "REGULAR"})


def _negative(answer: Json, _how: _Lie) -> None:
    answer["region_list"].append({"offset": -4096, "length": 4096, "type": "REGULAR"})


def _looping(answer: Json, how: _Lie) -> None:
    answer["next_offset"] = max(0, how.query.start - how.args["back_bytes"])


def _omit(answer: Json, how: _Lie) -> None:
    chosen = _chosen(answer, how.args["share"], how.seed)
    answer["region_list"] = [region for region in answer["region_list"] if id(region) not in chosen]


def _say_zero(answer: Json, how: _Lie) -> None:
    chosen = _chosen(answer, how.args["share"], how.seed)
    for region in answer["region_list"]:
        if id(region) in chosen:
            region["type"] = "ZEROED"


def _chosen(answer: Json, share: float, seed: int) -> set[int]:
    """Which data regions to lie about: one, or every k-th; the seed says where to begin."""
    data = [region for region in answer["region_list"] if region["type"] == "REGULAR"]
    if not data:
        return set()
    step = len(data) if share <= 0 else max(1, round(1 / share))
    return {id(region) for region in data[seed % step :: step]}


def _text(answer: Json, _how: _Lie) -> None:
    answer["file_size"] = str(answer["file_size"])
    if answer.get("next_offset") is not None:
        answer["next_offset"] = str(answer["next_offset"])
    for region in answer["region_list"]:
        region["offset"], region["length"] = str(region["offset"]), str(region["length"])


def _wrong_size(answer: Json, how: _Lie) -> None:
    answer["file_size"] += how.args["by_bytes"]


_SPOILERS: dict[str, Callable[[Json, _Lie], None]] = {
    "regions_cut_short": _cut_short,
    "regions_overlapping": _overlapping,
    "regions_unsorted": _unsorted,
    "regions_unaligned": _unaligned,
    "regions_beyond_end": _beyond_end,
    "regions_negative": _negative,
    "regions_looping": _looping,
    "regions_omit": _omit,
    "regions_say_zero": _say_zero,
    "regions_text": _text,
    "regions_wrong_size": _wrong_size,
}
