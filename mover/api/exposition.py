"""The registry as text, many times faster than the library writes it: a node has ten thousand series.

What the library's own writer costs is the labels of each series, over and over. Here the name
and labels of a series are written once and kept; a scrape adds the values. Only plain counters
and gauges go this way, everything else by the library; a test holds both to the same text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.exposition import generate_latest
from prometheus_client.utils import floatToGoString


class Exposition:
    """Writes one registry. Used by one thread at a time."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._kept: dict[str, _Family] = {}

    def text(self) -> bytes:
        """All families in the text format of Prometheus, UTF-8."""
        return "".join(self._parts()).encode()

    def _parts(self) -> Iterator[str]:
        for collector in list(self._registry._collector_to_names):
            if type(collector) in (Counter, Gauge):
                yield from self._family(collector).parts()
            else:
                yield generate_latest(_Only(collector)).decode()

    def _family(self, collector: Any) -> _Family:
        return self._kept.setdefault(collector._name, _Family(collector))


class _Only:
    """A registry of one collector, as the library's writer wants it."""

    def __init__(self, collector: Any) -> None:
        self._collector = collector

    def collect(self) -> Any:
        return self._collector.collect()


class _Family:
    """One counter or gauge with all its series."""

    def __init__(self, collector: Any) -> None:
        self._collector = collector
        name = collector._name + ("_total" if collector._type == "counter" else "")
        words = collector._documentation.replace("\\", "\\\\").replace("\n", "\\n")
        self._head = f"# HELP {name} {words}\n# TYPE {name} {collector._type}\n"
        self._name = name
        self._begins: dict[tuple[str, ...], str] = {}

    def parts(self) -> Iterator[str]:
        yield self._head
        children = self._children()
        if len(self._begins) > 2 * len(children) + 16:
            self._begins = {labels: begin for labels, begin in self._begins.items() if labels in children}
        begins = self._begins
        for labels, child in children.items():
            begin = begins.get(labels)
            if begin is None:
                begin = begins[labels] = self._begin(labels)
            value = floatToGoString(child._value.get())  # type: ignore[no-untyped-call] # the library has no types here
            yield f"{begin}{value}\n"

    def _children(self) -> dict[tuple[str, ...], Any]:
        collector = self._collector
        if not collector._labelnames:
            return {(): collector}
        with collector._lock:
            return dict(collector._metrics)

    def _begin(self, labels: tuple[str, ...]) -> str:
        if not labels:
            return f"{self._name} "
        pairs = sorted(zip(self._collector._labelnames, labels, strict=True))
        written = ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs)
        return f"{self._name}{{{written}}} "


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
