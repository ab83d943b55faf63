"""One guest for all tests: each takes away its own disks, and nothing may be left of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernel.disks import NOTHING
from tests.support.qemu import Machine, machine
from tests.support.watching import until


@pytest.fixture(scope="package")
def booted(tmp_path_factory) -> Iterator[Machine]:
    with machine(tmp_path_factory.mktemp("machine"), program="tests.kernel.agent") as running:
        yield running


@pytest.fixture
def vm(booted: Machine) -> Iterator[Machine]:
    yield booted
    booted.unplug_all()
    # The kernel takes a pulled disk away in a thread of its own.
    until(lambda: booted.ask("forget_all") == NOTHING, what="the guest to forget its disks")
