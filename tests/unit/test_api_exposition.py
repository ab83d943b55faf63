"""The cheap writer says what the library's says, whatever the values and labels."""

from __future__ import annotations

import math

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from mover import metrics
from mover.api.exposition import Exposition

NAMES = ("web01", 'quote" and \\ and\nline', "ünï cödé", "", "a,b={}")


def filled() -> tuple[CollectorRegistry, Gauge]:
    registry = CollectorRegistry()
    gauge = Gauge("zz_gauge", "Help with \\ and\nline.", ("vm", "aa"), registry=registry)
    counter = Counter("a_counter", "Counts.", ("vm",), registry=registry)
    plain = Gauge("plain_ratio", "No label.", registry=registry)
    seconds = Histogram("some_seconds", "Times.", ("verb",), registry=registry, buckets=(0.1, 1.0))
    Gauge("empty_family", "Without a series.", ("vm",), registry=registry)
    ProcessCollector(registry=registry, proc="/nowhere")
    values = (0.0, -1.5, 1_760_000_000.25, math.nan, math.inf)
    for name, value in zip(NAMES, values, strict=True):
        gauge.labels(name, "x").set(value)
        counter.labels(name).inc(123_456_789.0)
        seconds.labels(name).observe(0.5)
    plain.set(1e21)
    return registry, gauge


def families(text: bytes) -> set[bytes]:
    """Text cut before each HELP: their order is nobody's business."""
    return {b"# HELP" + part for part in text.split(b"# HELP")[1:]}


def test_it_writes_what_the_library_writes():
    registry, gauge = filled()
    exposition = Exposition(registry)
    assert families(exposition.text()) == families(generate_latest(registry))
    gauge.labels("web01", "x").set(7)
    gauge.labels("new", "y").set(8)
    gauge.remove("", "x")
    second = exposition.text()
    assert families(second) == families(generate_latest(registry))
    assert b'zz_gauge{aa="x",vm="web01"} 7.0\n' in second


def test_it_writes_what_this_product_has():
    text, wanted = Exposition(metrics.REGISTRY).text(), generate_latest(metrics.REGISTRY)
    changing = b"# HELP process_"
    kept, known = families(text), families(wanted)
    assert {part for part in kept if not part.startswith(changing)} == {
        part for part in known if not part.startswith(changing)
    }
    assert any(part.startswith(b"# HELP process_resident_memory_bytes ") for part in kept)


def test_what_it_keeps_of_series_that_ended_is_bounded():
    registry = CollectorRegistry()
    gauge = Gauge("one", "One.", ("vm",), registry=registry)
    exposition = Exposition(registry)
    for number in range(500):
        gauge.labels(str(number)).set(number)
        assert f'one{{vm="{number}"}}'.encode() in exposition.text()
        gauge.remove(str(number))
    exposition.text()
    assert len(exposition._kept["one"]._begins) <= 20


def test_a_scraper_reads_it():
    registry, _ = filled()
    found = {family.name: family for family in text_string_to_metric_families(Exposition(registry).text().decode())}
    assert {sample.labels["vm"] for sample in found["zz_gauge"].samples} == set(NAMES)
    assert found["a_counter"].type == "counter"
    assert found["plain_ratio"].samples[0].value == 1e21
