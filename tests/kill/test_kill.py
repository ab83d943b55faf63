"""Kill the executor anywhere: the next start finishes the job, and nothing of ours is left but the base.

Every boundary of every step of a backup and of a restore; then seeded instants, that is,
before or after any single call to hypervisor, store or ledger; in the long run hundreds of
those, and deaths by the clock.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kill.driver import EMPTY, SLOTS

ROOT = Path(__file__).parents[2]


class Driver:
    """The forking program."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.kill.driver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )

    def life(self, **order) -> dict[str, int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        # What operations log comes before it on the same pipe.
        for line in self._process.stdout:
            if line.startswith('{"signal"') or line.startswith('{"exit"'):
                return json.loads(line)
        raise AssertionError("the driver died")

    def close(self) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


@dataclass
class Base:
    """A folder with one committed point, and what its disks held then and hold now."""

    folder: Path
    point: str
    then: dict[str, str]
    now: dict[str, str]
    driver: Driver
    lives: int = 0

    def copy(self) -> Path:
        self.lives += 1
        folder = self.folder.parent / f"life-{self.lives}"
        shutil.copytree(self.folder, folder)
        return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kill") / "base"
    folder.mkdir()
    driver = Driver()
    assert driver.life(folder=str(folder), job="first") == {"exit": 0}
    outcome = json.loads((folder / "outcome.json").read_text())
    [(point, then)] = outcome["points"].items()
    state = pickle.loads((folder / "world.pickle").read_bytes())
    web = next(vm for vm in state.vms.values() if vm.name == "web")
    for disk in web.disks:
        state.data[disk.vmdisk_uuid][5000:5010] = b"0123456789"
    state.calls.clear()
    (folder / "world.pickle").write_bytes(pickle.dumps(state))
    now = {str(d.slot): digest(state.data[d.vmdisk_uuid]) for d in web.disks if str(d.slot) != EMPTY}
    yield Base(folder, point, then, now, driver)
    driver.close()


def digest(data) -> str:
    return hashlib.sha256(bytes(data)).hexdigest()


def live(base: Base, folder: Path, job: str, **order) -> dict[str, int]:
    (folder / "outcome.json").unlink(missing_ok=True)
    return base.driver.life(folder=str(folder), job=job, **order)


def check(base: Base, folder: Path, job: str) -> None:
    outcome = json.loads((folder / "outcome.json").read_text())
    state = pickle.loads((folder / "world.pickle").read_bytes())
    assert outcome["state"] == "done", outcome["error"]
    assert outcome["points"][base.point] == base.then
    if job == "backup":
        new = outcome["result"]["point"]
        assert outcome["points"] == {base.point: base.then, new: base.now}
        assert outcome["ours"] == {"snapshots": 1, "attached": 0, "vms": 0}
        assert (folder / "hooks").read_text().split().count("post") >= 1
    else:
        assert outcome["ours"] == {"snapshots": 1, "attached": 0, "vms": 1}
        vm = state.vms[outcome["result"]["vm_uuid"]]
        held = {str(disk.slot): state.data[disk.vmdisk_uuid] for disk in vm.disks}
        assert not any(held.pop(EMPTY))
        assert {slot: digest(data) for slot, data in held.items()} == base.then
        assert set(held) == set(SLOTS)
        assert vm.is_on
    assert outcome["ours_later"] == outcome["ours"]
    assert outcome["ledger"] == ["snapshot"]


def kill_and_recover(base: Base, job: str, **order) -> bool:
    """Whether it was killed (False: it ended before)."""
    folder = base.copy()
    death = live(base, folder, job, **order)
    if "exit" not in death:
        assert death["signal"] in (signal.SIGKILL, signal.SIGALRM)
        assert live(base, folder, job) == {"exit": 0}
    else:
        assert death == {"exit": 0}
    check(base, folder, job)
    shutil.rmtree(folder)
    return "signal" in death


def ticks(base: Base, job: str, **order) -> int:
    folder = base.copy()
    assert live(base, folder, job, **order) == {"exit": 0}
    check_without_skew = json.loads((folder / "outcome.json").read_text())
    shutil.rmtree(folder)
    return int(check_without_skew["ticks"])


@pytest.mark.parametrize("job", ["backup", "restore"])
@pytest.mark.timeout(600)
def test_killed_at_each_boundary_of_a_step(base, job):
    count = ticks(base, job)
    assert count >= 13
    for boundary in range(1, count + 1):
        assert kill_and_recover(base, job, kill_at=boundary)


@pytest.mark.parametrize("job", ["backup", "restore"])
@pytest.mark.timeout(600)
def test_killed_at_seeded_instants(base, job):
    seeded_instants(base, job, runs=4, seed=1)


@pytest.mark.long
@pytest.mark.parametrize("job", ["backup", "restore"])
@pytest.mark.timeout(3000)
def test_killed_at_many_seeded_instants(base, job):
    seeded_instants(base, job, runs=120, seed=2)


def seeded_instants(base: Base, job: str, *, runs: int, seed: int) -> None:
    count = ticks(base, job, mode="instants")
    dice = random.Random(seed)
    for instant in dice.sample(range(1, count + 1), min(runs, count)):
        assert kill_and_recover(base, job, mode="instants", kill_at=instant), f"instant {instant}, seed {seed}"


@pytest.mark.long
@pytest.mark.parametrize("job", ["backup", "restore"])
@pytest.mark.timeout(3000)
def test_killed_by_the_clock(base, job):
    dice = random.Random(3)
    killed = sum(kill_and_recover(base, job, after_ms=dice.randint(50, 1500)) for _ in range(30))
    assert killed >= 5
