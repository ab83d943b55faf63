"""A process that may not use block devices says so at once, before Prism is asked for anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.programs import needs

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="dropping a capability needs root"),
    needs("setpriv"),
]


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    """A real node, whose Prism nobody reaches."""
    folder = tmp_path_factory.mktemp("node")
    settings = {
        "state_dir": str(folder / "state"),
        "prism": {"url": "https://127.0.0.1:9", "username": "admin", "password": "x", "retry_budget": "0s"},
        "repository": {"url": str(folder / "repository")},
        "node": {"check_guard": False},
        "serve": {"port": 0},
    }
    file = folder / "mover.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def powerless(config: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A mover that is root, but may not administer the system."""
    command = ["setpriv", "--bounding-set=-sys_admin", sys.executable, "-m", "mover", *words]
    environment = {**os.environ, "MOVER_CONFIG": str(config)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)


@pytest.mark.parametrize("words", [("backup", "web01"), ("serve",)])
def test_no_job_begins_and_the_remedy_is_said(config, words):
    done = powerless(config, *words)
    assert done.returncode == 4, done.stderr
    assert "CAP_SYS_ADMIN is missing" in done.stderr
    assert "[device.rights]" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (config.parent / "repository").exists()


def test_check_has_it_as_a_line(config):
    done = powerless(config, "check", "--json")
    assert done.returncode == 3, done.stderr
    lines = {line["subject"]: line for line in json.loads(done.stdout)["checks"]}
    assert lines["capability"]["state"] == "problem"
    assert lines["capability"]["remedy"]
    assert lines["/dev"]["state"] == "ok"


def test_an_operator_may_insist(config):
    done = powerless(config, "backup", "web01", "-s", "node.check_rights=false")
    assert "device.rights" not in done.stderr
    assert "127.0.0.1:9" in done.stderr, done.stderr
