"""``mover bench tune`` as it is typed: refusals before anything is measured, an interruption, a disk of the user's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from mover.cli import tune
from mover.cli.console import Console
from mover.cli.run import Session
from mover.cli.tune import Excerpt, Wish
from mover.clock import SystemClock
from mover.config import Settings
from mover.device.direct import DirectDevice
from mover.device.memory import direct_memory
from mover.errors import UsageError
from mover.model.region import Regions
from mover.operations.tuning import BACKUP, Cost
from tests.support.commandline import invoke

MIB = 1 << 20


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "data.block_size"], "is no setting that can be tuned"),
        (["--size", "1MiB"], "says nothing"),
        (["--time", "1s"], "nothing can be found"),
        (["--time", "long"], "is not a duration"),
        (["--device", "/nowhere"], "/nowhere cannot be read"),
        (["--folder", "/proc/nowhere"], "cannot be used"),
        (["--folder", "/tmp/" + "x" * 300], "cannot be used: File name too long"),
        (["--device", "/dev/null"], "/dev/null cannot be used: This is neither"),
        (["--write", "/nowhere/mover.yaml"], "cannot be written"),
        (["--write", "/proc"], "/proc cannot be read: Is a directory"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_made(tmp_path, words, said):
    folder = [] if "--folder" in words else ["--folder", tmp_path]
    invoke("bench", "tune", *folder, *words).refuses(2, "usage", said)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "code", "kind", "said"),
    [
        ("data:\n  levle: 3\n", 2, "config.unknown-key", "There is no setting data.levle"),
        ("data:\n  level: much\n", 2, "config", "data.level"),
        ("data: {level: 3}\n", 2, "usage", "cannot be changed without harm"),
    ],
)
def test_a_file_that_could_not_be_written_is_refused_before_anything_is_made(tmp_path, text, code, kind, said):
    path, work = tmp_path / "mover.yaml", tmp_path / "work"
    path.write_text(text)
    words = ["--folder", work, "--size", "64MiB", "--time", "10s", "--only", "data.readers", "--write", path]
    invoke("bench", "tune", *words).refuses(code, kind, said)
    assert os.listdir(tmp_path) == ["mover.yaml"]
    assert path.read_text() == text


def test_a_full_disk_is_told(tmp_path):
    for command in (["bench", "tune"], ["bench"]):
        invoke(*command, "--folder", tmp_path / "new", "--size", "500TiB").refuses(7, "job.space", "free; this needs")
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fills_up_meanwhile_is_told(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mover.cli.sample.os.fsync", full)
    outcome = invoke("bench", "tune", "--folder", tmp_path, "--size", "64MiB")
    outcome.refuses(7, "job.space", "could not be written", "No space left on device")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_ends_it_early_prints_what_was_found_and_leaves_nothing(tmp_path, number, code):
    settings = tmp_path / "mover.yaml"
    settings.write_text("data:\n  readers: 2\n")
    work = tmp_path / "work"
    command = [sys.executable, "-m", "mover", "bench", "tune", "--folder", str(work), "--size", "64MiB"]
    command += ["--only", "data.readers", "--write", str(settings)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert next(line for line in process.stderr if "round 1" in line)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Interrupted: what was found until then. Nothing was written." in out
    assert "too little was measured to propose others" in out
    assert "nothing was faster" not in out
    assert "Traceback" not in err
    assert os.listdir(work) == []
    assert settings.read_text() == "data:\n  readers: 2\n"
    assert sorted(os.listdir(tmp_path)) == ["mover.yaml", "work"]


async def test_what_was_found_is_written(tmp_path, monkeypatch, capsys):
    """A machine on which eight readers are twice as fast; the search, the answer and the file are the real ones."""

    async def measure(self, change, phases):
        fast = dict(change).get("data.readers") == 8
        return Cost(dict.fromkeys(phases, 1.0 if fast else 2.0), 1000)

    monkeypatch.setattr(tune.Runs, "measure", measure)
    path = tmp_path / "mover.yaml"
    path.write_text("data:  # ours\n  level: 1\n")
    session = Session(Settings(), Console(as_json=True))
    await tune.tune(session, Wish(tmp_path / "work", "64MiB", None, "5m", ("data.readers",), path))
    answer = json.loads(capsys.readouterr().out)
    assert answer["settings"] == {"data.readers": 8}
    assert answer["is_complete"]
    assert path.read_text() == "data:  # ours\n  readers: 8\n  level: 1\n"


async def test_a_whole_search_says_that_nothing_is_faster(tmp_path, monkeypatch, capsys):
    async def measure(self, change, phases):
        return Cost(dict.fromkeys(phases, 1.0), 1000)

    monkeypatch.setattr(tune.Runs, "measure", measure)
    wish = Wish(tmp_path / "work", "64MiB", None, "5m", ("data.readers",), None)
    await tune.tune(Session(Settings(), Console(as_json=False)), wish)
    assert "The settings stay as they are: nothing was faster beyond the noise." in capsys.readouterr().out


async def test_a_run_measures_and_leaves_nothing(tmp_path):
    image = tmp_path / "disk.raw"
    image.write_bytes(os.urandom(2 * MIB))
    work = tmp_path / "work"
    work.mkdir()
    with DirectDevice.open_source(image) as device:
        excerpt = Excerpt(device, 64 * MIB)
        runs = await tune.Runs.prepared(Settings(), work, excerpt, Regions.whole(2 * MIB), SystemClock())
        cost = await runs.measure((("data.readers", 1),), (BACKUP,))
    assert cost.seconds.keys() == {BACKUP}
    assert cost.stored_bytes >= 2 * MIB
    assert os.listdir(work) == ["empty"]
    assert image.stat().st_size == 2 * MIB


def test_an_excerpt_is_taken_from_all_over_the_disk(monkeypatch, tmp_path):
    monkeypatch.setattr(tune, "_STRIDE_BYTES", MIB)
    image = tmp_path / "disk.raw"
    image.write_bytes(b"".join(bytes([part]) * MIB for part in range(9)))
    with DirectDevice.open_source(image) as device:
        excerpt = Excerpt(device, 3 * MIB)
        buffer = direct_memory(3 * MIB)
        excerpt.read_into(buffer[: MIB // 2], 0)
        excerpt.read_into(buffer[MIB // 2 :], MIB // 2)
    assert [buffer[part * MIB] for part in range(3)] == [0, 3, 6]
    assert [buffer[part * MIB + MIB - 1] for part in range(3)] == [0, 3, 6]
    (tmp_path / "small.raw").write_bytes(b"x")
    with DirectDevice.open_source(tmp_path / "small.raw") as device, pytest.raises(UsageError, match="smaller than"):
        Excerpt(device, MIB)
