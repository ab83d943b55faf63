"""What the role makes of its templates, and that LVM is asked before it gets any of it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mover.device import guard_lvm
from tests.support.ansible import ANSIBLE, AS_ROOT, FOLDER, SETTINGS, start
from tests.support.programs import needs
from tests.support.source import ROOT

ONLY_TEMPLATES = """
- hosts: mover
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: mover, tasks_from: look, public: true}
    - ansible.builtin.template: {src: "{{ role }}/templates/{{ item }}.j2", dest: "{{ into }}/"}
      loop: [lvmlocal.conf, mover.container, mover-state.volume, repository-folder.conf]
"""


def written(tmp_path: Path, **variables: Any) -> dict[str, str]:
    """What the role makes of its templates, by file."""
    into = tmp_path / "into"
    into.mkdir()
    (tmp_path / "only.yml").write_text(ONLY_TEMPLATES)
    (tmp_path / "inventory").write_text(
        f"[mover]\nproxy1 ansible_connection=local ansible_python_interpreter={sys.executable}\n"
    )
    places = {"mover_root": str(ROOT / "deploy"), "role": str(FOLDER / "roles/mover"), "into": str(into)}
    words = {"mover_settings": SETTINGS, **places, **variables}
    environment = {"ANSIBLE_ROLES_PATH": str(FOLDER / "roles")}
    arguments = ("-i", tmp_path / "inventory", "-e", json.dumps(words), tmp_path / "only.yml")
    done = start("ansible-playbook", *arguments, home=tmp_path, environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return {path.name.removesuffix(".j2"): path.read_text("utf-8") for path in into.iterdir()}


OWN = tuple(f"/dev/disk/by-id/wwn-0x65{'0' * 29}{number}-part3" for number in (1, 2))
IMAGE = "registry.example/mover:1"


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> dict[str, str]:
    """With volumes of the node's own, an image by another name, a repository in a folder."""
    return written(tmp_path_factory.mktemp("full"), mover_lvm_way="filters", mover_lvm_own=OWN, mover_image=IMAGE)


@pytest.fixture(scope="module")
def least(tmp_path_factory) -> dict[str, str]:
    """With none of that."""
    bucket = {**SETTINGS, "repository": {"url": "s3://bucket/prefix"}}
    return written(tmp_path_factory.mktemp("least"), mover_lvm_way="filters", mover_settings=bucket)


def shipped(path: str) -> str:
    return (ROOT / "deploy" / path).read_text("utf-8").strip()


@ANSIBLE
def test_filters_take_the_nodes_own_volumes_and_nothing_that_begins_alike(full):
    settings = guard_lvm.parse_lvm(full["lvmlocal.conf"])
    assert settings.use_devices_file is None
    assert settings.filter == settings.global_filter == (*(f"a|^{path}$|" for path in OWN), "r|.*|")
    assert all(guard_lvm.verdict(settings.filter, [path])[0] for path in OWN)
    assert not guard_lvm.verdict(settings.filter, [f"{OWN[0]}1", "/dev/sdb"])[0]


@ANSIBLE
def test_without_volumes_of_its_own_a_node_gets_the_files_as_they_are(least, tmp_path):
    assert least["lvmlocal.conf"].strip() == shipped("lvm/lvmlocal-filters.conf")
    assert least["mover.container"].strip() == shipped("systemd/mover.container")
    assert least["mover-state.volume"].strip() == shipped("systemd/mover-state.volume")
    listed = written(tmp_path, mover_lvm_way="devicesfile")
    assert listed["lvmlocal.conf"].strip() == shipped("lvm/lvmlocal-devicesfile.conf")


@ANSIBLE
def test_the_units_get_the_image_and_the_repositorys_folder(full):
    before, after = set(shipped("systemd/mover.container").splitlines()), set(full["mover.container"].splitlines())
    assert after - before == {f"Image={IMAGE}", "Volume=/backup:/backup", "RequiresMountsFor=/backup"}
    assert before - after == {"Image=localhost/mover:latest"}
    unit, container = full["mover.container"].split("[Container]")
    assert "RequiresMountsFor=/backup" in unit
    assert "Volume=/backup:/backup" in container.split("[Service]")[0]
    assert "ReadWritePaths=-/backup" in full["repository-folder.conf"]


@AS_ROOT
@needs("lvm")
@pytest.mark.parametrize(
    ("text", "is_taken"),
    [
        ((ROOT / "deploy/lvm/lvmlocal-filters.conf").read_text("utf-8"), True),
        ((ROOT / "deploy/lvm/lvmlocal-devicesfile.conf").read_text("utf-8"), True),
        ('devices { filter = [ "|^/dev/sda$|", "r|.*|" ] }', False),
        ("devices { filter = [ 3 ] }", False),
        ("devices {", False),
    ],
    ids=["filters", "devices file", "no pattern", "no strings", "no end"],
)
def test_what_lvm_would_not_take_does_not_replace_what_it_has(tmp_path: Path, text: str, is_taken: bool):
    """The role's own check, by this machine's LVM."""
    tasks = yaml.safe_load((FOLDER / "roles/mover/tasks/lvm.yml").read_text())
    (task,) = [task["ansible.builtin.blockinfile"] for task in tasks if task["name"] == "Tell LVM"]
    (tmp_path / "lvmlocal.conf").write_text(text)
    command = shlex.split(task["validate"] % (tmp_path / "lvmlocal.conf"))
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode == 0) == is_taken, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["lvmlocal.conf"]
