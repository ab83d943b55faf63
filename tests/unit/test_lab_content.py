"""What the lab's guests hold: programs from the library of the Python that runs us, wherever it lies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mover.lab import content
from mover.units import KIB


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A library in lib64, as RHEL has it."""
    folder = tmp_path / "lib64/python3.11"
    folder.mkdir(parents=True)
    monkeypatch.setattr(os, "__file__", str(folder / "os.py"))
    content._programs.cache_clear()
    yield folder
    content._programs.cache_clear()


def test_programs_are_found_where_the_library_lies(library: Path):
    (library / "large.py").write_bytes(bytes(range(256)) * 256)
    (library / "small.py").write_bytes(b"small")
    assert content.program(np.random.default_rng(1), 40 * KIB) == bytes(range(256)) * 160


def test_a_link_that_leads_nowhere_is_passed_over(library: Path):
    (library / "large.so").write_bytes(bytes(64 * KIB))
    (library / "sitecustomize.py").symlink_to("/no/such/file")
    assert content._programs() == (library / "large.so",)
