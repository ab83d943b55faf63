"""Labs of the command-line tests: certificates are made once, each module has its own cluster."""

from __future__ import annotations

import pytest

from tests.support.commandline import desk as new_desk


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def shared(tmp_path_factory, certificates):
    """The module's desk; tests ask for ``desk``."""
    with new_desk(tmp_path_factory.mktemp("desk"), certificates) as made:
        yield made


@pytest.fixture
def desk(shared):
    """With the settings as they were, no faults, no locked accounts; what is on the cluster is somebody else's."""
    shared.write()
    shared.forget_cluster()
    yield shared
    shared.lab.faults.disarm()


@pytest.fixture
def point(desk):
    """The only point of a fresh repository, of ``one``; its base on the cluster is somebody else's."""
    desk.fresh()
    report = desk.backed_up("one")
    desk.forget_cluster()
    return report["point"]
