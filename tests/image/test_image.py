"""The image as it is built and run: what is in it, what it does, and what it says when a right is missing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import mover
from tests.support.commandline import ONE
from tests.support.commandline import desk as new_desk
from tests.support.containers import (
    ARCHITECTURE,
    BASE,
    IMAGE,
    IS_EMULATED,
    MACHINES,
    PLATFORM,
    RIGHTS,
    SOURCE,
    Containers,
    here,
    source_tree,
    unusable,
)
from tests.support.servers import free_ports
from tests.support.source import ROOT

pytestmark = [
    pytest.mark.root,
    pytest.mark.image,
    pytest.mark.timeout(900),
    pytest.mark.skipif(unusable() is not None, reason=str(unusable())),
]

CANARY = "canary-7b1f0c-of-a-secret"
REVISION = "0123456789abcdef0123456789abcdef01234567"
README = ROOT / "deploy/container/README.md"
STATE = "/var/lib/mover"
_SHIM = ROOT / "tests/image/emulated"
EMULATED = ("--volume", f"{_SHIM}:/emulated:ro", "--env", "PYTHONPATH=/emulated") if IS_EMULATED else ()


@pytest.fixture(scope="module")
def containers(tmp_path_factory):
    made = Containers(tmp_path_factory.mktemp("containers"))
    try:
        made.build(source_tree(tmp_path_factory.mktemp("source"), canary=CANARY), canary=CANARY, revision=REVISION)
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def config(containers) -> dict:
    return containers.buildah("inspect", "--type", "image", IMAGE).json["Docker"]["config"]


@pytest.fixture(scope="module")
def layers(containers, tmp_path_factory) -> Iterator[Path]:
    """The image as it would be pushed, its layers as plain archives."""
    folder = tmp_path_factory.mktemp("pushed")
    done = containers.buildah("push", "--disable-compression", IMAGE, f"dir:{folder}")
    assert done.code == 0, done.err
    yield folder
    shutil.rmtree(folder)  # hundreds of MiB, which pytest would keep


# --- what is in it --------------------------------------------------------------------


def test_labels_say_what_it_is(config):
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
    assert (labels["version"], labels["revision"]) == (mover.__version__, REVISION)
    assert (labels["title"], labels["licenses"]) == ("mover", "Apache-2.0")
    assert (labels["source"], labels["base.name"]) == (SOURCE, BASE)
    assert "Nutanix AHV" in labels["description"]


def test_its_programs_are_of_the_architecture_that_it_names(containers):
    inspected = containers.buildah("inspect", "--type", "image", IMAGE).json
    machine = containers.podman("run", "--rm", *here(), "--entrypoint", "uname", IMAGE, "-m").out.strip()
    assert MACHINES[inspected["OCIv1"]["architecture"]] == machine
    assert not ARCHITECTURE or MACHINES[ARCHITECTURE] == machine


def test_it_is_a_daemon_of_an_ordinary_user_that_can_be_asked_and_told(config):
    assert (config["User"], config["StopSignal"]) == ("10001", "SIGTERM")
    assert (config["Entrypoint"], config["Cmd"]) == (["mover"], ["serve"])
    assert config["Healthcheck"]["Test"][1].startswith("mover health")
    assert not config["Volumes"], "a volume without a name would hide that the state was forgotten"


def test_no_secret_is_in_any_layer_or_in_the_history(layers):
    files = [path for path in layers.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) > 100 << 20
    assert [path.name for path in files if _holds(path, CANARY.encode())] == []
    assert any(_holds(path, REVISION.encode()) for path in files), "the search finds what is there"


def _holds(path: Path, needle: bytes) -> bool:
    before = b""
    with open(path, "rb") as file:
        while piece := file.read(16 << 20):
            if needle in before + piece:
                return True
            before = piece[-len(needle) :]
    return False


def test_the_layers_hold_the_product_and_nothing_of_its_making(layers):
    names = set(_files(layers))
    assert "opt/mover/bin/mover" in names
    assert any(name.startswith("opt/mover/lib/python3.11/site-packages/mover/__pycache__/") for name in names)
    unwanted = r"(^src/|/\.git/|(^|/)\.env$|root/\.cache/|var/lib/apt/lists/.*Packages|site-packages/pip/|mover\.yaml$)"
    assert [name for name in names if re.search(unwanted, name)] == []


def test_only_root_may_change_the_product(layers):
    loose = [
        member.name
        for archive in _archives(layers)
        for member in archive
        if member.name.startswith("opt/mover") and not member.issym() and (member.uid or member.mode & 0o022)
    ]
    assert loose == []


def _files(layers: Path) -> list[str]:
    return [member.name.removeprefix("./") for archive in _archives(layers) for member in archive if member.isfile()]


def _archives(layers: Path) -> list[tarfile.TarFile]:
    return [tarfile.open(path) for path in layers.iterdir() if path.is_file() and tarfile.is_tarfile(path)]


def test_its_own_layer_is_as_small_as_the_readme_says(layers):
    """Beyond the base, which is the operator's choice."""
    (said,) = re.findall(r"(\d+) MiB beyond its base", README.read_text("utf-8"))
    own = sum(member.size for archive in _archives(layers) for member in archive if member.name.startswith("opt/"))
    assert own <= int(said) << 20, f"{own / (1 << 20):.0f} MiB"


def test_every_locked_package_has_a_wheel_for_the_other_architecture(tmp_path):
    """pip asks the index, and downloads nothing but what the wheels say of themselves."""
    there = {"platform_machine": "aarch64", "sys_platform": "linux"}
    blocks = re.split(r"\n(?=\w)", (ROOT / "deploy/requirements.lock").read_text("utf-8"))
    named = [Requirement(block.partition("\\")[0]) for block in blocks]
    lock = tmp_path / "lock"
    pairs = list(zip(named, blocks, strict=True))
    lock.write_text("\n".join(text for one, text in pairs if one.marker is None or one.marker.evaluate(there)))
    glibc = [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(17, 37)]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--report", tmp_path / "report.json"]
    command += ["--no-deps", "--ignore-installed", "--target", tmp_path / "none", "--only-binary=:all:"]
    command += [*glibc, "--platform=manylinux2014_aarch64", "--python-version=3.11", "--require-hashes", "-r", lock]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found = [one["download_info"]["url"] for one in json.loads((tmp_path / "report.json").read_text())["install"]]
    assert sum("aarch64" in url for url in found) > 10
    assert len(found) > 40


@pytest.mark.parametrize("base", ["", "debian:12-slim", "docker.io/library/debian:12-slim@sha256:abc"])
def test_a_base_that_is_not_pinned_is_refused(base):
    done = subprocess.run([ROOT / "deploy/container/build.sh", base], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "digest" in done.stderr


# --- a backup and a restore inside ----------------------------------------------------


@pytest.fixture
def outside(tmp_path) -> Iterator[Path]:
    """A folder of the host that does not outlive the test."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def test_the_demo_backs_up_and_restores_inside_on_loop_devices(containers, outside):
    """Without a container runtime, as it is built: a chroot with the capabilities of the lab's own devices."""
    container = containers.buildah("from", *PLATFORM, IMAGE).out.strip()
    rights = ("--isolation", "chroot", "--user", "0", "--cap-add", "CAP_SYS_ADMIN", "--cap-add", "CAP_MKNOD")
    # The state lies outside: no loop device keeps the container's own file system busy.
    volume = ("--volume", f"{outside}:{STATE}:rw", *EMULATED)
    done = containers.buildah("run", *rights, *volume, container, "--", "mover", "demo", "--folder", f"{STATE}/demo")
    assert done.code == 0, done.err
    assert "loop devices with direct I/O; reflinks on an own XFS" in done.err
    rows = [line.split() for line in done.out.splitlines() if re.search(r" (full|incr) ", line)]
    assert [row[2] for row in rows] == ["full"] * 4 + ["incr"] * 4
    assert {row[-1] for row in rows} == {"yes"}
    assert done.err.count("identical to the snapshot") == 4


# --- what mover check says of rights --------------------------------------------------


def checked(
    containers, *, give: tuple[str, ...], more: tuple[str, ...] = ("--volume", f"state-of-tests:{STATE}")
) -> dict:
    """The lines of ``mover check`` in a container that is started so."""
    done = containers.run("check", "--json", give=(*give, *more))
    assert done.code == 3, done.err  # there is no Prism
    return {line["subject"]: line for line in json.loads(done.out)["checks"]}


def without(*words: str) -> tuple[str, ...]:
    """The rights less one flag, given with its value."""
    text, gone = "\n".join(RIGHTS), "\n".join(words)
    assert gone in text
    return tuple(word for word in text.replace(gone, "").split("\n") if word)


PLACE = ("state folder", "capability", "/dev", "block devices", "memory", "processors", "threads", "state kept")


def test_rightly_started_it_has_what_it_needs_as_an_ordinary_user(containers):
    lines = checked(containers, give=RIGHTS)
    assert {subject: lines[subject]["state"] for subject in PLACE} == dict.fromkeys(PLACE, "ok")
    assert lines["runs in"]["what"].startswith("a container (podman;")


def test_as_root_with_one_capability_it_writes_a_new_volume(containers):
    """As Quadlet, Compose and Docker start it: root that may not pass over owners."""
    new = ("--volume", f"state-of-root:{STATE}")
    lines = checked(containers, give=(*RIGHTS, "--user", "0:0"), more=new)
    assert {subject: lines[subject]["state"] for subject in PLACE} == dict.fromkeys(PLACE, "ok")


def test_the_readme_gives_these_rights():
    text = " ".join(README.read_text("utf-8").replace("\\\n", " ").replace("'", "").split())
    rules = [word for word in RIGHTS if word.startswith("--device-cgroup-rule")]
    assert all(
        f"{first} {second}" in text
        for first, second in zip(RIGHTS[1 : -len(rules) : 2], RIGHTS[2 : -len(rules) : 2], strict=True)
    )
    assert all(rule in text for rule in rules)


@pytest.mark.parametrize(
    ("give", "subject", "words"),
    [
        (without("--cap-add", "SYS_ADMIN"), "capability", "CAP_SYS_ADMIN is missing"),
        (without("--volume", "/dev:/dev"), "/dev", "the container's own (tmpfs)"),
        (tuple(word for word in RIGHTS if "cgroup-rule" not in word), "block devices", "deny SCSI disks"),
        ((*RIGHTS, "--memory", "160m"), "memory", "160 MiB allowed"),
        ((*RIGHTS, "--pids-limit", "40"), "threads", "40 allowed"),
        (("--privileged", "--network", "host"), "/dev", "the container's own (tmpfs)"),
    ],
    ids=["capability", "dev", "device rules", "memory", "threads", "privileged"],
)
def test_each_missing_right_is_a_problem_with_its_remedy(containers, give, subject, words):
    line = checked(containers, give=give)[subject]
    assert line["state"] == "problem"
    assert words in line["what"]
    assert "--" in line["remedy"]


def test_limits_that_only_slow_it_down_are_notes(containers):
    lines = checked(containers, give=(*RIGHTS, "--cpus", "0.5"))
    assert lines["processors"]["state"] == "note"
    assert "0.5 processors" in lines["processors"]["what"]
    few = tuple(word for word in RIGHTS if "cgroup-rule" not in word or "=b 8:" in word)
    assert checked(containers, give=few)["block devices"]["state"] == "note"
    assert checked(containers, give=RIGHTS)["/sys"]["state"] == "note", "podman mounts it read-only"


def test_a_forgotten_volume_is_a_problem(containers):
    lines = checked(containers, give=(*RIGHTS, "--tmpfs", f"{STATE}:mode=0777"), more=())
    assert "lost at the next restart" in lines["state kept"]["what"]
    unnamed = checked(containers, give=RIGHTS, more=("--volume", STATE))
    assert "volume without a name" in unnamed["state kept"]["what"]
    writable = tuple(word for word in RIGHTS if word != "--read-only")
    assert "lost with the container" in checked(containers, give=writable, more=())["state kept"]["what"]


@pytest.mark.parametrize("words", [("backup", "web01"), ("serve",)])
def test_without_device_rights_no_job_begins(containers, words):
    done = containers.run(*words, give=("--network", "host", "--env", "MOVER_REPOSITORY__URL=s3://bucket/prefix"))
    assert done.code == 4, done.err
    for expected in ("CAP_SYS_ADMIN is missing", "deny SCSI disks", "gets no node", "[device.rights]"):
        assert expected in done.err
    assert "Traceback" not in done.err


# --- the daemon -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    with new_desk(tmp_path_factory.mktemp("desk"), tmp_path_factory.mktemp("certificates"), vms=(ONE,)) as made:
        yield made


def test_the_daemon_answers_its_health_check_and_ends_when_told(containers, config, desk):
    desk.write(serve={"port": free_ports(1)[0]})
    # The lab's files are root's.
    give = (*RIGHTS, "--user", "0", "--volume", f"{desk.folder}:{desk.folder}")
    containers.start("daemon", "serve", give=(*give, "--env", f"MOVER_CONFIG={desk.config}"))
    said = containers.until("daemon", "Serving http://127.0.0.1:")
    assert "/metrics" in said
    healthy = containers.podman("exec", "daemon", "sh", "-c", config["Healthcheck"]["Test"][1])
    assert healthy.code == 0, healthy.err
    assert containers.podman("stop", "--time", "60", "daemon").code == 0
    assert containers.podman("inspect", "--format", "{{.State.ExitCode}}", "daemon").out.strip() == "0"
    assert "Stopped." in containers.podman("logs", "daemon").err


def test_without_a_daemon_the_health_check_fails(containers):
    port = free_ports(1)[0]
    done = containers.run("health", "--set", f"serve.port={port}")
    assert done.code == 7
    assert f"No daemon answers at http://127.0.0.1:{port}/healthz" in done.err
