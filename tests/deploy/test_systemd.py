"""The units of deploy/systemd, by systemd's own checks; Quadlet's by the keys that it documents."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from mover.device.rights import SCSI_MAJORS
from mover.settings import load
from tests.support.programs import needs
from tests.support.source import ROOT

UNITS = ROOT / "deploy/systemd"
SYSTEMD = (
    needs("systemd-analyze")
    if os.geteuid() == 0 or Path("/run/systemd").is_dir()
    else pytest.mark.skip(reason="systemd-analyze wants /run/systemd, which only root or a booted systemd makes")
)
EXPOSURE_MAX = 2.2
"""On systemd's scale from 0 to 10; 10 is a unit that says nothing."""

CONTAINER_KEYS = """\
    AddCapability AddDevice Annotation AutoUpdate ContainerName ContainersConfModule DNS DNSOption DNSSearch
    DropCapability Environment EnvironmentFile EnvironmentHost Exec ExposeHostPort GIDMap GlobalArgs Group HealthCmd
    HealthInterval HealthOnFailure HealthRetries HealthStartPeriod HealthStartupCmd HealthStartupInterval
    HealthStartupRetries HealthStartupSuccess HealthStartupTimeout HealthTimeout HostName Image IP IP6 Label LogDriver
    Mask Mount Network NoNewPrivileges Notify PidsLimit PodmanArgs PublishPort Pull ReadOnly ReadOnlyTmpfs Rootfs
    RunInit SeccompProfile Secret SecurityLabelDisable SecurityLabelFileType SecurityLabelLevel SecurityLabelNested
    SecurityLabelType ShmSize SubGIDMap SubUIDMap Sysctl Timezone Tmpfs UIDMap Ulimit Unmask User UserNS Volume
    WorkingDir"""
"""podman-systemd.unit(5) of Podman 4.9, section [Container]. Debian 12 has no Quadlet to ask."""
VOLUME_KEYS = (
    "ContainersConfModule Copy Device Driver GlobalArgs Group Image Label Options PodmanArgs Type User VolumeName"
)


def sections(text: str) -> dict[str, list[tuple[str, str]]]:
    """A unit file as section → (key, value) in order. Raises on any line that is none of it."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if header := re.fullmatch(r"\[(\w+)\]", line):
            current = found.setdefault(header[1], [])
        else:
            key, equals, value = line.partition("=")
            assert equals, line
            assert key.isalnum(), line
            current.append((key, value))
    return found


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SYSTEMD_COLORS": "0", "LC_ALL": "C"}
    command = ["systemd-analyze", "--no-pager", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root folder with the unit, its drop-ins and a program where it says that one is."""
    units = tmp_path / "etc/systemd/system"
    shutil.copytree(UNITS / "mover.service.d", units / "mover.service.d")
    shutil.copy(UNITS / "mover.service", units)
    for example in (units / "mover.service.d").glob("*.example"):
        example.rename(example.with_suffix(""))
    program = tmp_path / "usr/local/bin/mover"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for name in ("sysinit.target", "network-online.target", "basic.target", "shutdown.target", "multi-user.target"):
        (units / name).write_text("[Unit]\nDescription=stands in\n")
    return tmp_path


def verify(root: Path) -> subprocess.CompletedProcess[str]:
    return analyze("verify", "--man=no", f"--root={root}", "mover.service")


@SYSTEMD
def test_systemd_knows_every_word_of_the_unit_and_its_drop_ins(root: Path):
    done = verify(root)
    assert (done.returncode, done.stderr) == (0, "")


@SYSTEMD
def test_the_check_can_fail(root: Path):
    unit = root / "etc/systemd/system/mover.service"
    unit.write_text(unit.read_text().replace("ProtectHome=", "ProtectHouse="))
    assert "ProtectHouse" in verify(root).stderr
    (root / "usr/local/bin/mover").unlink()
    assert verify(root).returncode != 0


@SYSTEMD
def test_the_unit_is_as_confined_as_it_says():
    done = analyze("security", "--offline=yes", str(UNITS / "mover.service"))
    level = re.search(r"exposure level for mover.service: ([\d.]+)", done.stdout)
    assert level, done.stdout + done.stderr
    assert float(level[1]) <= EXPOSURE_MAX
    assert f"{level[1]}" in (UNITS / "README.md").read_text("utf-8")


def test_an_exit_code_that_a_restart_cannot_mend_is_not_restarted():
    for name in ("mover.service", "mover.container"):
        service = dict(sections((UNITS / name).read_text("utf-8"))["Service"])
        assert service["Restart"] == "always"
        assert service["RestartPreventExitStatus"] == "2"


def test_secrets_by_credentials_are_what_settings_read(tmp_path: Path):
    drop_in = sections((UNITS / "mover.service.d/credentials.conf.example").read_text("utf-8"))["Service"]
    for key, value in drop_in:
        if key == "LoadCredential":
            (tmp_path / value.split(":")[0]).write_text("secret\n")
    settings = load(environment={"MOVER_SECRETS_DIR": str(tmp_path)})
    assert settings.prism.password.get_secret_value() == "secret"
    assert settings.repository.passphrase.get_secret_value() == "secret"


def test_quadlet_knows_every_key():
    container = sections((UNITS / "mover.container").read_text("utf-8"))
    assert set(container) == {"Unit", "Container", "Service", "Install"}
    assert {key for key, _ in container["Container"]} <= set(CONTAINER_KEYS.split())
    volume = sections((UNITS / "mover-state.volume").read_text("utf-8"))
    assert {key for key, _ in volume["Volume"]} <= set(VOLUME_KEYS.split())
    drop_in = sections((UNITS / "mover.container.d/repository-folder.conf.example").read_text("utf-8"))
    assert {key for key, _ in drop_in["Container"]} <= set(CONTAINER_KEYS.split())


def test_the_container_may_open_every_scsi_disk_and_nothing_else():
    container = sections((UNITS / "mover.container").read_text("utf-8"))["Container"]
    words = [word for key, value in container if key == "PodmanArgs" for word in shlex.split(value)]
    rules = [word.partition("=")[2] for word in words if word.startswith("--device-cgroup-rule=")]
    assert rules == [f"b {major}:* rw" for major in SCSI_MAJORS]
    given = dict(container)
    assert (given["DropCapability"], given["AddCapability"]) == ("all", "CAP_SYS_ADMIN")
    assert (given["ReadOnly"], given["NoNewPrivileges"]) == ("true", "true")


def test_podman_gives_the_container_the_time_to_stop_that_systemd_gives_podman():
    unit = sections((UNITS / "mover.container").read_text("utf-8"))
    words = [word for key, value in unit["Container"] if key == "PodmanArgs" for word in shlex.split(value)]
    (patience,) = [int(word.partition("=")[2]) for word in words if word.startswith("--stop-timeout=")]
    assert 60 <= patience < int(dict(unit["Service"])["TimeoutStopSec"])


def test_every_way_to_stop_says_the_same_word_and_waits_as_long():
    """SIGTERM, and time for packs on their way to a slow store; who waits for another waits longer."""
    plain = dict(sections((UNITS / "mover.service").read_text("utf-8"))["Service"])
    quadlet = sections((UNITS / "mover.container").read_text("utf-8"))
    compose = yaml.safe_load((ROOT / "deploy/compose/compose.yaml").read_text("utf-8"))["services"]["mover"]
    image = (ROOT / "deploy/container/Containerfile").read_text("utf-8")
    readme = (ROOT / "deploy/container/README.md").read_text("utf-8")
    assert re.findall(r"^STOPSIGNAL (\S+)$", image, re.MULTILINE) == ["SIGTERM"]
    assert "KillSignal" not in plain, "systemd's own is SIGTERM"
    assert plain["KillMode"] == "mixed", "SIGTERM is for the daemon, whose helpers it ends itself"
    assert "stop_signal" not in compose
    container = dict(quadlet["Container"]) | dict(quadlet["Service"])
    flags = " ".join(value for key, value in quadlet["Container"] if key == "PodmanArgs")
    assert not {"StopSignal", "KillSignal", "KillMode"} & container.keys(), "Podman's own unit has what it needs"
    patience = set(re.findall(r"--stop-timeout[ =](\d+)", flags + readme))
    assert patience | set(re.findall(r"podman rm --force --time (\d+)", readme)) == {"110"}
    assert {plain["TimeoutStopSec"], container["TimeoutStopSec"], compose["stop_grace_period"].rstrip("s")} == {"120"}


def test_the_containers_state_is_the_volume_beside_it():
    container = sections((UNITS / "mover.container").read_text("utf-8"))["Container"]
    places = dict(reversed(value.split(":")[:2]) for key, value in container if key == "Volume")
    assert places["/var/lib/mover"] == "mover-state.volume"
    assert (UNITS / places["/var/lib/mover"]).exists()


GENERATED = (
    "ExecStart=/usr/bin/podman run --name{0}mover --cidfile={1}/mover.cid --replace --rm --cgroups=split "
    '--network host --sdnotify=conmon -d --cap-drop all --read-only -v /dev:/dev --health-cmd "mover health" '
    '"--device-cgroup-rule=b 8:* rw" --stop-timeout=110 localhost/mover:latest serve\n'
)
"""What Podman 5.4 made of a shorter mover.container; Podman 4.9 writes ``--name=%N``."""


class Node:
    """The command of a container's node, over programs that say what they are asked."""

    def __init__(self, folder: Path) -> None:
        self.unit = folder / "mover.service"
        self._programs = folder / "bin"
        self._programs.mkdir()

    def call(self, *words: str, running: bool = False) -> subprocess.CompletedProcess[str]:
        self._program(
            "podman", f"[ $1 != container ] || {{ echo {str(running).lower()}; exit; }}; printf '%s\\n' \"$@\""
        )
        self._program("systemctl", f"[ ! -e {self.unit} ] || echo {self.unit}")
        environment = {**os.environ, "PATH": f"{self._programs}:{os.environ['PATH']}"}
        command = [UNITS / "mover.sh", *words]
        how = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
        return subprocess.run(command, env=environment, check=False, timeout=10, **how)

    def _program(self, name: str, text: str) -> None:
        (self._programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (self._programs / name).chmod(0o755)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_the_command_runs_in_the_container_that_runs(node):
    asked = node.call("restore", "a b", "--name", "c*", running=True)
    assert asked.stdout.splitlines() == ["exec", "mover", "mover", "restore", "a b", "--name", "c*"]


@pytest.mark.parametrize(("equals", "folder"), [(" ", "%t"), ("=", "/run")])
def test_without_it_the_command_gets_the_units_rights_in_a_container_of_its_own(node, equals, folder):
    node.unit.write_text(GENERATED.format(equals, folder))
    assert node.call("restore", "a b", "--name", "c*").stdout.splitlines() == [
        *(
            "run",
            "--no-healthcheck",
            "--rm",
            "--network",
            "host",
            "--cap-drop",
            "all",
            "--read-only",
            "-v",
            "/dev:/dev",
        ),
        *("--device-cgroup-rule=b 8:* rw", "--stop-timeout=110"),
        *("localhost/mover:latest", "restore", "a b", "--name", "c*"),
    ]


def test_the_input_stays_that_of_the_script_that_calls_it(node):
    """``while read vm; do mover backup "$vm"; done``: podman with --interactive would read the other lines."""
    assert "--interactive" not in node.call("backup", "web01", running=True).stdout
    node.unit.write_text(GENERATED.format(" ", "%t"))
    assert "--interactive" not in node.call("check").stdout


def test_without_a_container_or_its_unit_the_command_says_what_to_install(node):
    missing = node.call("check")
    assert missing.returncode == 2
    assert "do: install mover.container" in missing.stderr
    node.unit.write_text("ExecStart=/usr/local/bin/mover serve\n")
    assert node.call("check").stderr == missing.stderr
