"""The role: linted, refused where it must be, and run for real on a Debian that was booted for it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.ansible import ANSIBLE, AS_ROOT, FOLDER, SETTINGS, start
from tests.support.commandline import ONE, PASSPHRASE, Desk
from tests.support.commandline import desk as new_desk
from tests.support.loopback import needs_loops
from tests.support.proxyvm import ProxyVm, needs_vm, proxy_vm
from tests.support.source import ROOT

THERE = "/srv/lab"
"""Where the stand-in of a Proxy VM sees the lab's folder."""


class Playbook:
    """site.yml against one machine."""

    def __init__(self, home: Path, machine: dict[str, Any], variables: dict[str, Any]) -> None:
        self._home = home
        self._variables = variables
        self._inventory = home / "inventory.yml"
        host = {"ansible_connection": "local", "ansible_become": False, "ansible_pipelining": True, **machine}
        self._inventory.write_text(yaml.safe_dump({"mover": {"hosts": {"proxy1": host}}}))

    def run(self, *options: str, **changes: Any) -> subprocess.CompletedProcess[str]:
        variables = self._home / "variables.json"
        variables.write_text(json.dumps({**self._variables, **changes}))
        return start(
            "ansible-playbook", "-i", self._inventory, "-e", f"@{variables}", *options, "site.yml", home=self._home
        )

    def must(self, *options: str, **changes: Any) -> str:
        done = self.run(*options, **changes)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def refuses(self, words: str, *options: str, **changes: Any) -> None:
        done = self.run(*options, **changes)
        said = " ".join(done.stdout.split())
        assert done.returncode != 0, said
        assert words in said, said
        assert "changed=0" in said, said


SECRETS = {"prism-password": "well kept", "passphrase": PASSPHRASE}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """What an operator makes once: with all wheels, so that the node needs no package index."""
    path = tmp_path_factory.mktemp("bundle") / "mover-bundle.tar.gz"
    environment = {**os.environ, "PYTHON": sys.executable, "BUNDLE": str(path)}
    done = subprocess.run(
        [FOLDER / "bundle.sh", "--offline"], env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return path


# --- without a machine -----------------------------------------------------------------


@ANSIBLE
def test_ansible_lint_finds_nothing(tmp_path: Path):
    done = start("ansible-lint", "--offline", "--profile", "production", home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_defaults_and_their_description_name_the_same_variables():
    defaults = yaml.safe_load((FOLDER / "roles/mover/defaults/main.yml").read_text())
    described = yaml.safe_load((FOLDER / "roles/mover/meta/argument_specs.yml").read_text())
    options = described["argument_specs"]["main"]["options"]
    assert set(defaults) == set(options)
    assert {name for name in options if f"`{name}`" not in (FOLDER / "README.md").read_text()} == set()


def test_the_example_leaves_the_fingerprint_to_the_first_check():
    example = yaml.safe_load((FOLDER / "inventory/group_vars/mover/settings.yml").read_text())
    assert "fingerprint" not in example["mover_settings"]["prism"]


def test_the_repositorys_folder_is_there_before_the_unit_starts_and_keeps_its_rights():
    """What is not there at the start, the unit's name space never lets it write to; Podman cannot mount it."""
    tasks = yaml.safe_load((FOLDER / "roles/mover/tasks/unit.yml").read_text())
    names = [task["name"] for task in tasks]
    making = tasks[names.index("Make the repository's folder")]["ansible.builtin.command"]
    assert names.index("Make the repository's folder") < names.index("Let the daemon write to the repository's folder")
    assert making["creates"] == "{{ mover_repository_folder }}", "one that is there is not touched"
    assert "-p" not in making["cmd"].split(), "what it lies in is the operator's: a mount, perhaps"


@pytest.mark.parametrize("version", ["3.11", "3.13"])
def test_a_bundle_for_another_python_has_what_that_one_takes(version: str):
    lock = (ROOT / "deploy/requirements.lock").read_text()
    command = [sys.executable, FOLDER / "lock_of.py", version]
    part = subprocess.run(command, input=lock, capture_output=True, text=True, check=True).stdout
    named = re.findall(r"^numpy==\S+ ; python_full_version (<|>=) '3.12'", lock, re.MULTILINE)
    assert sorted(named) == ["<", ">="], "the lock has one for older and one for newer"
    taken = re.findall(r"^(numpy==\S+) \\$", part, re.MULTILINE)
    assert taken == re.findall(rf"^(numpy==\S+) ; \S+ {'<' if version == '3.11' else '>='}", lock, re.MULTILINE)
    assert part.count("--hash") > 100
    assert ";" not in part


# --- against this machine, which is not changed ------------------------------------------


@pytest.fixture
def here(tmp_path: Path) -> Playbook:
    variables = {"mover_settings": SETTINGS, "mover_secrets": SECRETS, "mover_method": "systemd"}
    return Playbook(
        tmp_path, {"ansible_python_interpreter": "/usr/bin/python3"}, {**variables, "mover_bundle": __file__}
    )


@ANSIBLE
@AS_ROOT
@pytest.mark.skipif("bookworm" not in Path("/etc/os-release").read_text(), reason="not Debian 12")
def test_check_mode_goes_through_on_this_machine_and_writes_nothing(here: Playbook):
    places = [Path(path) for path in ("/etc/mover", "/opt/mover", "/etc/systemd/system/mover.service")]
    before = [path.exists() for path in places]
    said = here.must("--check", "--diff", mover_offline=True)
    assert "changed=0" not in said, "it would have done something"
    assert [path.exists() for path in places] == before


@ANSIBLE
@AS_ROOT
@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("must hold prism.url", {"mover_settings": {"prism": {"url": "https://192.0.2.1"}}}),
        ("a secret in clear text", {"mover_settings": {**SETTINGS, "repository": {"url": "/b", "passphrase": "x"}}}),
        ("make bundle", {"mover_bundle": "/no/such/bundle"}),
    ],
)
def test_what_is_missing_is_said_before_anything_is_written(here: Playbook, words: str, changes: dict[str, Any]):
    here.refuses(words, "--check", mover_offline=True, **changes)


ONLY_MOUNTS = """
- hosts: mover
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: mover, tasks_from: mounts}
"""


@ANSIBLE
@pytest.mark.parametrize(
    ("fstab", "changes", "refused"),
    [
        ("nas:/vms {folder} nfs defaults 0 0", {}, True),
        ("nas:/vms {folder}/below nfs noauto 0 0", {}, True),
        ("nas:/vms {link}/below nfs defaults 0 0", {}, True),
        ("nas:/vms {folder} nfs defaults 0 0", {"mover_offline": True}, False),
        ("nas:/vms {folder}/bel nfs defaults 0 0\nnas:/iso {folder}/below/ahv/iso nfs defaults 0 0", {}, False),
        ("/dev/sda1 / ext4 defaults 0 1\nproc /proc proc defaults 0 0\n/dev/sda2 none swap sw 0 0", {}, False),
    ],
    ids=["above", "right above", "by a symbolic link", "image being built", "beside and below", "mounted"],
)
def test_a_repository_in_a_mount_that_is_away_is_refused(
    tmp_path: Path, fstab: str, changes: dict[str, Any], refused: bool
):
    """Else the role would make the folder on the root disk, and backups would fill that."""
    done, said = asked_about_mounts(tmp_path, fstab, **changes)
    assert (done.returncode != 0) == refused, said
    assert ("which is not mounted: backups would fill" in said) == refused, said


@ANSIBLE
@AS_ROOT
def test_a_repository_that_is_mounted_needs_no_mount_around_it(tmp_path: Path):
    around = "nas:/vms {folder} nfs noauto 0 0\n"
    done, said = asked_about_mounts(tmp_path, around, mounted="below")
    assert done.returncode == 0, said
    further = around + "nas:/iso {folder}/below/ahv nfs noauto 0 0"
    done, said = asked_about_mounts(tmp_path, further, mounted="below")
    assert f"lies in the mount point {tmp_path}/with space/below/ahv, which is not mounted" in said


def asked_about_mounts(
    tmp_path: Path, fstab: str, *, mounted: str = "", **changes: Any
) -> tuple[subprocess.CompletedProcess[str], str]:
    """That part of the role; what it said. mounted: a folder around the repository's where a file system is."""
    folder, link = tmp_path / "with space", tmp_path / "link"
    folder.mkdir(exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(folder)
    places = {"folder": str(folder).replace(" ", r"\040"), "link": str(link)}
    (tmp_path / "fstab").write_text(fstab.format_map(places) + "\n")
    (tmp_path / "only.yml").write_text(ONLY_MOUNTS)
    (tmp_path / "inventory").write_text(
        f"[mover]\nproxy1 ansible_connection=local ansible_python_interpreter={sys.executable}\n"
    )
    settings = {**SETTINGS, "repository": {"url": f"{folder}/below/ahv"}}
    words = json.dumps({"mover_settings": settings, **changes})
    arguments = ("-i", tmp_path / "inventory", "-e", words, tmp_path / "only.yml")
    # What findmnt reads in the place of /etc/fstab.
    environment = {"LIBMOUNT_FSTAB": str(tmp_path / "fstab"), "ANSIBLE_ROLES_PATH": str(FOLDER / "roles")}
    if mounted:
        within = folder / mounted
        within.mkdir(exist_ok=True)
        alone = ("--mount", "sh", "-ec", 'mount -t tmpfs tmpfs "$0"; exec ansible-playbook "$@"', within)
        done = start("unshare", *alone, *arguments, home=tmp_path, environment=environment)
    else:
        done = start("ansible-playbook", *arguments, home=tmp_path, environment=environment)
    return done, " ".join(done.stdout.split())


# --- on a Debian that was booted for it ----------------------------------------------------


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Desk]:
    folder, certificates = (tmp_path_factory.mktemp(name) for name in ("lab", "certificates"))
    with new_desk(folder, certificates, vms=(ONE,), use_loop=True) as made:
        made.fresh(passphrase=PASSPHRASE)
        yield made


def settings_of(lab: Desk) -> dict[str, Any]:
    """The lab's, as the stand-in sees them; without what the role puts in."""
    seen: dict[str, Any] = json.loads(json.dumps(lab.settings).replace(str(lab.folder), THERE))
    del seen["state_dir"], seen["prism"]["password"], seen["repository"]["passphrase"]
    return {**seen, "serve": {"port": 0}, "log": {"format": "json"}}


def allow_loop_devices(vm: ProxyVm) -> Path:
    """The lab's disks are loop devices; a Proxy VM's are SCSI, which is all that the unit lets in."""
    drop_in = vm.root / "etc/systemd/system/mover.service.d/lab.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(f"[Service]\nDeviceAllow=block-loop rw\nReadWritePaths={THERE}\n")
    return drop_in


class TestProxyVm:
    pytestmark = [ANSIBLE, *needs_vm, *needs_loops, pytest.mark.timeout(1500)]

    def test_a_bare_machine_becomes_a_node_and_backs_up(self, tmp_path: Path, lab: Desk, bundle: Path):
        with proxy_vm(tmp_path, shared={lab.folder: THERE}) as vm:
            secrets = {**SECRETS, "prism-password": lab.lab.password}
            variables = {"mover_settings": settings_of(lab), "mover_secrets": secrets, "mover_bundle": str(bundle)}
            machine = {"ansible_python_interpreter": str(vm.python), "ansible_remote_tmp": str(vm.exchange)}
            role = Playbook(tmp_path, machine, {**variables, "mover_ntp_servers": ["192.0.2.5"]})
            self._refuse_another_distribution(vm, role)
            self._refuse_what_is_not_mounted(vm, role)
            self._only_look(vm, role)
            drop_in = allow_loop_devices(vm)
            self._install(vm, role, secrets)
            self._change_nothing(role)
            self._be_left_alone(vm)
            self._back_up(vm)
            self._keep_what_works(vm, role)
            self._open_nothing_else(vm, drop_in)

    def _refuse_another_distribution(self, vm: ProxyVm, role: Playbook) -> None:
        told = vm.root / "usr/lib/os-release"
        ours = told.read_text()
        told.write_text('NAME="SLES"\nVERSION="15-SP6"\nVERSION_ID="15.6"\nID="sles"\nPRETTY_NAME="SLES 15 SP6"\n')
        (vm.root / "etc/debian_version").rename(vm.root / "etc/debian_version.away")
        role.refuses("is not supported")
        (vm.root / "etc/debian_version.away").rename(vm.root / "etc/debian_version")
        told.write_text(ours)
        role.refuses("Podman 4.3 has no Quadlet", mover_method="quadlet")

    def _refuse_what_is_not_mounted(self, vm: ProxyVm, role: Playbook) -> None:
        """Named by a unit alone."""
        unit = vm.root / "etc/systemd/system/backup.mount"
        unit.write_text("[Mount]\nWhat=nas:/vms\nWhere=/backup\nType=nfs\n")
        role.refuses("Mount it (mount /backup)", mover_settings=SETTINGS)
        unit.unlink()

    def _only_look(self, vm: ProxyVm, role: Playbook) -> None:
        role.must("--check", "--diff")
        assert not any((vm.root / path).exists() for path in ("etc/mover", "opt/mover", "usr/local/bin/mover"))

    def _install(self, vm: ProxyVm, role: Playbook, secrets: dict[str, str]) -> None:
        said = role.must("--diff")
        assert not any(secret in said for secret in secrets.values())
        vm.wait_for_log('"event": "serving"')
        for path in ("etc/mover/secrets/passphrase", "etc/mover/secrets/prism-password", "etc/mover/mover.yaml"):
            assert (vm.root / path).stat().st_mode & 0o777 == 0o600
        assert "server 192.0.2.5 iburst" in (vm.root / "etc/chrony/chrony.conf").read_text()
        assert vm.answer("systemctl", "is-enabled", "mover", "chrony").split() == ["enabled", "enabled"]

    def _change_nothing(self, role: Playbook) -> None:
        assert "changed=0 " in role.must()

    def _be_left_alone(self, vm: ProxyVm) -> None:
        """The guard, with that machine's own tools."""
        program = (
            "from pathlib import Path; from mover.device.guard import inspect_node, run_tool;"
            "print([(f.subject, f.state, f.what) for f in inspect_node(Path('/'), run_tool)])"
        )
        said = vm.answer("/opt/mover/current/venv/bin/python", "-c", program)
        for subject in ("lvm", "multipath", "md", "automount"):
            assert f"('{subject}', 'ok'" in said, said

    def _back_up(self, vm: ProxyVm) -> None:
        done = vm.run("mover", "backup", "one", "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        status = vm.answer("sh", "-c", "cat /proc/$(systemctl show --value --property=MainPID mover)/status")
        facts = dict(line.split(":\t", 1) for line in status.splitlines())
        assert int(facts["CapBnd"], 16) == 1 << 21, "CAP_SYS_ADMIN and no other"
        assert facts["Seccomp"] == "2"

    def _keep_what_works(self, vm: ProxyVm, role: Playbook) -> None:
        before = (vm.root / "etc/mover/mover.yaml").read_text()
        wrong = {**SETTINGS, "prism": {**SETTINGS["prism"], "usrname": "x"}}
        role.refuses("Did you mean prism.username?", "--tags", "mover_settings", mover_settings=wrong)
        assert (vm.root / "etc/mover/mover.yaml").read_text() == before
        assert vm.answer("systemctl", "is-active", "mover").strip() == "active"

    def _open_nothing_else(self, vm: ProxyVm, drop_in: Path) -> None:
        drop_in.write_text(f"[Service]\nReadWritePaths={THERE}\n")
        vm.restart_daemon()
        done = vm.run("mover", "backup", "one")
        assert done.returncode != 0
        assert "Operation not permitted" in done.stderr
