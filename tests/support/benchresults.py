"""Results of a bench, as small as a test needs them."""

from __future__ import annotations

from bench.results import Results


def results(**series: list[float]) -> Results:
    """Rates by name, higher is better."""
    made = Results.begin("test", "python -m bench.test")
    made.machine.load_before = 0.0
    for name, samples in series.items():
        for sample in samples:
            made.add(f"test.{name}", sample, "B/s", "higher", depth=4)
    return made
