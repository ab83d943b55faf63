"""The names of a large folder, in order and in little memory: a list of them costs twice what they are long."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from itertools import islice

_RUN = 4096
"""Names sorted at a time: some 400 KiB while they are a list."""
_END = "\n"
"""No name has it."""


class ManyNames:
    """Some names, ascending. Each costs its length and one byte; falsy without any."""

    def __init__(self, names: Iterable[str]) -> None:
        """names: in any order, none empty, without line feeds."""
        rest = iter(names)
        self._runs: list[str] = []
        while batch := sorted(islice(rest, _RUN)):
            self._runs.append(_END.join([*batch, ""]))

    def __bool__(self) -> bool:
        return bool(self._runs)

    def __iter__(self) -> Iterator[str]:
        return heapq.merge(*map(_lines, self._runs))


def _lines(run: str) -> Iterator[str]:
    """One at a time: ``splitlines`` would make all of them at once."""
    begin = 0
    while (end := run.find(_END, begin)) >= 0:
        yield run[begin:end]
        begin = end + 1
