"""Each script of the bench kit, once and tiny: what it writes, and what it leaves when it is stopped."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from bench import fio
from bench.device import loop_of
from bench.results import Results, read
from bench.sample_disk import attached, loops_below, reflink_folder
from mover.errors import UsageError
from tests.support.loopdevices import none_left
from tests.support.programs import needs
from tests.support.source import ROOT

SCRIPTS = {
    "sketch": {
        *("hash.rate", "zstd.rate", "zstd.ratio", "unzstd.rate", "aes_gcm.rate", "memory.copy.rate"),
        *("device.read.rate", "store.put.rate", "store.get.rate"),
    },
    "device": {"device.read.rate", "device.read.cpu"},
    "seal": {"seal.bare.rate", "seal.new.cpu", "seal.known.cpu", "seal.open.rate"},
    "store": {"store.put.rate", "store.get.latency", "store.range.cpu", "store.list.name"},
    "scale": {"scale.rate", "scale.kept", "scale.budget_wait"},
    "soak": {"soak.memory", "soak.descriptors", "soak.threads"},
    "latency": {"latency.kept", "latency.cpu"},
    "scrape": {"scrape.cpu", "scrape.first.cpu", "scrape.lag", "scrape.size", "scrape.library.cpu"},
    "lock": {"lock.held", "lock.projected", "lock.reached"},
    "block_size": {"block_size.full.cpu", "block_size.day.stored", "block_size.restore.wall", "block_size.index"},
    "plan_and_map": {"plan_and_map.cpu", "plan_and_map.peak", "plan_and_map.blocks", "plan_and_map.lag"},
    "startup": {"startup.help.time", "startup.points.cpu", "startup.points.unencrypted.cpu"},
}
IN_MEMORY = {"seal", "latency", "lock", "scrape"}
LESS = {"scale": ("--disks", "1,2", "--latencies", "2"), "block_size": ("--only", "0.1")}
"""Where even the quick run has parts that show nothing more."""


def run(script: str, *arguments: object) -> tuple[int, str]:
    """In this process: exit code, and all that it said."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(importlib.import_module(f"bench.{script}").main)
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def quick(script: str, place: Path, *arguments: object) -> Results:
    """Its results; nothing else is left."""
    work, out = place / "work", place / "out.json"
    folder = () if script in IN_MEMORY else ("--folder", work)
    code, said = run(script, "--quick", "--out", out, *folder, *arguments)
    assert code == 0, said
    assert list(work.iterdir() if work.exists() else ()) == []
    assert none_left(work)
    return read(out)


RAN = {"soak": {"minutes": 0.0, "rounds": 2, "size": "8MiB"}, "device": {"size": "4MiB", "samples": 2}}
"""Not what was typed, nor the defaults."""


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_script_measures_what_it_says(script, tmp_path):
    results = quick(script, tmp_path, *LESS.get(script, ()))
    assert results.bench == script
    assert {series.name for series in results.series} >= SCRIPTS[script]
    assert "a quick run: the sizes are too small for figures" in results.notes
    assert results.settings.items() >= RAN.get(script, {}).items()
    assert all(sample >= 0 for series in results.series for sample in series.samples)
    assert results.settings.get("samples", 0) <= max(len(series.samples) for series in results.series)


def test_a_sketch_has_a_figure_for_each_size_depth_and_level_and_says_what_bounds_a_full(tmp_path):
    results = quick("sketch", tmp_path)

    def tried(name: str, param: str) -> set[object]:
        return {series.params[param] for series in results.series if series.name == name}

    several = [tried("device.read.rate", "size_bytes"), tried("device.read.rate", "depth"), tried("zstd.rate", "level")]
    assert all(len(values) > 1 for values in several), several
    assert results.notes[-1].startswith("so a full backup here cannot go beyond")
    assert not results.versions["fio"].startswith("fio")


def test_what_s3_costs_is_counted_beside_the_folder_and_the_server(tmp_path):
    results = quick("object_cost", tmp_path)
    cpu = {series.name: series.samples[0] for series in results.series}
    assert cpu["object_cost.beyond"] == pytest.approx(cpu["object_cost.s3.cpu"] - cpu["object_cost.folder.cpu"])
    assert cpu["object_cost.server.cpu"] > 0
    assert cpu["object_cost.s3.peak"] > 32 << 20
    bounded = {series.name for series in results.series if series.target is not None}
    assert bounded == {"object_cost.beyond", "object_cost.s3.peak"}


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="a file system with reflinks is mounted by root")
@needs("fio")
def test_small_extents_are_measured_beside_fio(tmp_path):
    results = quick("extents", tmp_path)
    measured = {series.params["by"] for series in results.series if series.name == "extents.cpu"}
    assert measured == {"fio", "read path", "read and hash"}


def test_small_extents_need_fio(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, said = run("extents", "--quick", "--folder", tmp_path / "work")
    assert code == UsageError.exit_code
    assert "fio is not installed" in said


@needs("fio")
def test_end_to_end_measures_ours_the_limits_and_what_must_hold(tmp_path):
    out = tmp_path / "out.json"
    code, said = run("end_to_end", "--quick", "--only", "mover,limit", "--folder", tmp_path / "work", "--out", out)
    assert code == 0, said
    assert none_left(tmp_path / "work")
    results = read(out)
    assert read(tmp_path / "work" / "results.json").series == results.series
    wall = {
        (series.params["who"], series.params["operation"]): series.samples[0]
        for series in results.series
        if series.name == "end_to_end.wall"
    }
    assert {what for who, what in wall if who == "mover"} == {"full", "again", "incremental", "restore"}
    parts = [wall["limit", part] for part in ("open blocks", "fio read and write")]
    assert min(*parts, wall["limit", "fio read of packs"], wall["limit", "fio write"]) > 0
    assert wall["limit", "restore"] == max(parts)
    assert wall["limit", "full"] == max(wall["limit", "fio read"], wall["limit", "compute"])
    assert wall["limit", "fio read of disk, write of packs"] > 0
    goals = {series.params["of"]: series for series in results.series if series.name == "end_to_end.goal_share"}
    restore = goals["restore: limit / ours"]
    assert restore.samples == [wall["limit", "restore"] / wall["mover", "restore"]]
    assert restore.target == 0.8
    assert "| where a restore goes | wall s | CPU s |" in said
    assert "| threads' seconds in opened |" in said
    assert "| mover | incremental | 1 |" in said
    assert "| memory, largest of ours | <= 300 MiB |" in said


def test_a_device_is_read_and_never_written(tmp_path):
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(range(256)) * (4 << 12))
    before = disk.read_bytes(), disk.stat().st_mtime_ns
    results = quick("device", tmp_path, "--device", disk)
    assert {series.params["device"] for series in results.series} == {str(disk)}
    assert (disk.read_bytes(), disk.stat().st_mtime_ns) == before


def test_without_fio_ours_stands_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(4 << 20))
    results = quick("device", tmp_path, "--device", disk)
    assert {series.params["by"] for series in results.series} == {"threads", "pipeline"}
    assert any("fio is not installed" in note for note in results.notes)
    assert results.versions["fio"] == "none"


def test_without_root_there_are_no_loop_devices(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with loop_of(tmp_path / "none", 512) as device:
        assert device is None


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="becoming somebody else needs root")
@needs("setpriv")
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("device", "no loop device with sectors of 512 bytes and direct I/O here (it takes root)"),
        ("soak", "not root: the disk is a file with direct I/O, no loop devices come and go"),
    ],
)
def test_to_another_user_a_bench_says_what_it_does_without(script, said, tmp_path):
    """That user may read everything, so as to find Python and this checkout."""
    os.chown(tmp_path, 65534, 65534)
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    command += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    command += [sys.executable, "-m", f"bench.{script}", "--quick", "--folder", str(tmp_path / "work")]
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert list((tmp_path / "work").iterdir()) == []


@needs("fio")
def test_small_extents_without_root_need_a_file_system_with_reflinks(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr("bench.extents.fcntl.ioctl", refuse)
    code, said = run("extents", "--quick", "--folder", tmp_path / "work")
    assert code == UsageError.exit_code
    assert "has no reflinks" in said
    assert "Run as root, or name a --folder on XFS or Btrfs." in said
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        ("device", ["--device", "/nowhere/disk"], "/nowhere/disk cannot be read"),
        ("device", ["--device", "/dev/null"], "neither a block device nor a file"),
        ("device", ["--size", "much"], "is not a size"),
        ("store", ["--url", "s3://bucket/x", "--option", "endpoint"], "is not NAME=VALUE"),
        ("store", ["--url", "ftp://x/y"], "ftp"),
        ("scale", ["--disks", "1,two"], "is not a list of numbers"),
        ("scale", ["--disks", "1.5"], "is not a list of numbers"),
        ("scale", ["--budget", "1MiB"], "data.budget"),
        ("end_to_end", ["--only", "everyone"], "--only does not know everyone"),
        ("end_to_end", ["--data", "{"], "--data { cannot be used"),
        ("end_to_end", ["--data", '{"levl": 3}'], "cannot be used"),
        ("soak", ["--out", "/nowhere/at/all.json"], "/nowhere/at does not exist"),
        ("report_html", ["/nowhere/a.json"], "/nowhere/a.json cannot be read"),
    ],
)
def test_what_cannot_be_meant_is_said_in_words(script, arguments, said, tmp_path):
    work = [] if script == "report_html" else ["--folder", tmp_path / "work", "--quick"]
    code, text = run(script, *arguments, *work)
    assert code == (4 if "/dev/null" in arguments else 2), text
    assert said in text.replace("\n", " ")
    assert not any((tmp_path / "work").rglob("*.json"))


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="a file system with reflinks is mounted by root")
def test_what_a_killed_run_left_mounted_is_let_go_of_by_the_next(tmp_path):
    """Killed with a disk attached: mounted twice, the same XFS would be refused for its UUID."""
    script = """
import os, signal, sys
from pathlib import Path
from bench.sample_disk import attached, reflink_folder
with reflink_folder(Path(sys.argv[1]), size_bytes=1 << 29) as place:
    (place / "kept").write_bytes(bytes(1 << 20))
    with attached(place / "kept", read_only=True):
        os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(loops_below(tmp_path)) == 2
    with reflink_folder(tmp_path, size_bytes=1 << 29) as place:
        assert (place / "kept").stat().st_size == 1 << 20
        with attached(place / "kept", read_only=True):
            assert len(loops_below(tmp_path)) == 2
        with pytest.raises(UsageError, match="Another bench runs"), reflink_folder(tmp_path, size_bytes=1 << 29):
            pass
        assert place.is_mount()
    assert not place.is_mount()
    assert none_left(tmp_path)


def attach_what_is_not_there(place: Path, still_open: ExitStack) -> None:
    """Beside a file that stays open."""
    still_open.enter_context((place / "open").open("w"))
    with attached(place / "missing", read_only=True):
        pass


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="a file system with reflinks is mounted by root")
def test_what_failed_first_is_told_and_not_what_could_then_not_be_undone(tmp_path, capfd):
    """A file that is still open keeps the file system from being unmounted."""
    with ExitStack() as still_open:
        with (
            pytest.raises(subprocess.CalledProcessError) as caught,
            reflink_folder(tmp_path, size_bytes=1 << 29) as place,
        ):
            attach_what_is_not_there(place, still_open)
        assert caught.value.cmd[0] == "losetup"
        assert "missing" in caught.value.stderr
        assert "busy" in capfd.readouterr().err
        assert place.is_mount()
    with reflink_folder(tmp_path, size_bytes=1 << 29) as place:
        assert (place / "open").exists()
    assert none_left(tmp_path)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="a file system with reflinks is mounted by root")
def test_what_cannot_be_undone_is_told_where_nothing_failed_before(tmp_path):
    with ExitStack() as still_open:
        with (
            pytest.raises(subprocess.CalledProcessError) as caught,
            reflink_folder(tmp_path, size_bytes=1 << 29) as place,
        ):
            still_open.enter_context((place / "open").open("w"))
        assert caught.value.cmd[0] == "umount"
    with reflink_folder(tmp_path, size_bytes=1 << 29):
        pass
    assert none_left(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_bench_that_is_stopped_leaves_nothing(number, tmp_path):
    out, work = tmp_path / "out.json", tmp_path / "work"
    command = [sys.executable, "-m", "bench.scale", "--seconds", "60", "--latencies", "2000", "--folder", str(work)]
    with subprocess.Popen(
        [*command, "--out", str(out)], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stderr is not None
        assert any("sample 1" in line for line in iter(process.stderr.readline, ""))
        process.send_signal(number)
        said = process.stderr.read()
    assert process.returncode == 130, said
    # Where it falls between two event loops, Python adds a remark of its own.
    assert "Stopped before the end: nothing was written.\n" in said
    assert not out.exists()
    assert list(work.iterdir()) == []


@needs("fio")
def test_fio_says_what_is_wrong(tmp_path):
    with pytest.raises(UsageError, match="fio cannot read"):
        fio.read_rate(tmp_path / "none", read_bytes=4096, size_bytes=4096, depth=1)
