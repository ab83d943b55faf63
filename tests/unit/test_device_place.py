"""What container, unit and kernel let mover do, told from trees that look like theirs."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mover.config import Settings
from mover.device.container import inspect_place, recognise
from mover.device.mountinfo import mount_of, mount_points
from mover.device.rights import SCSI_MAJORS, RunningKernel, require_rights
from mover.errors import DeviceRightsMissing
from tests.support.places import CONTAINER, FULL, HOST, SYS_ADMIN, UNITS, Place, ToldKernel


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_root_on_a_plain_machine_is_all_right(place: Place):
    assert place.states() == {}
    assert "runs in" not in place.look()
    require_rights(place.look().values())


def test_a_container_that_is_rightly_started_is_all_right(place: Place):
    place.contain()
    assert place.states() == {}
    assert "podman; seen by /run/.containerenv" in place.look()["runs in"].what


@pytest.mark.parametrize(
    ("file", "text", "environment", "kind", "fact"),
    [
        ("run/.containerenv", "", {}, "podman", "/run/.containerenv"),
        (".dockerenv", "", {}, "docker", "/.dockerenv"),
        ("run/systemd/container", "systemd-nspawn\n", {}, "systemd-nspawn", "/run/systemd/container"),
        ("proc/self/cgroup", "0::/kubepods.slice/kubepods-pod1.slice/x\n", {}, "kubepods", "control group of kubepods"),
        ("proc/self/cgroup", "4:memory:/docker/0123abcd\n", {}, "docker", "control group of docker"),
        ("etc/none", "", {"container": "oci"}, "oci", "container=oci is set"),
        ("etc/none", "", {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "kubernetes", "KUBERNETES_SERVICE_HOST is set"),
    ],
)
def test_a_container_is_recognised(tmp_path: Path, file: str, text: str, environment, kind: str, fact: str):
    place = Place(tmp_path)
    place.file(file, text)
    found = recognise(place.root, environment)
    assert found is not None
    assert (found.kind, found.facts) == (kind, (fact,))


def test_a_unit_of_the_machine_is_no_container(place: Place):
    assert recognise(place.root, {}) is None


# --- rights ---------------------------------------------------------------------------


@pytest.mark.parametrize("is_contained", [True, False])
def test_without_the_capability_no_job_begins(place: Place, is_contained: bool):
    if is_contained:
        place.contain()
    place.file("proc/self/status", f"CapEff:\t{FULL & ~SYS_ADMIN:016x}\n")
    found = place.look()["capability"]
    assert found.state == "problem"
    assert ("--cap-add SYS_ADMIN" in found.remedy) is is_contained
    with pytest.raises(DeviceRightsMissing, match="CAP_SYS_ADMIN") as caught:
        require_rights([found])
    assert caught.value.facts["subjects"] == ["capability"]


def test_the_capability_alone_is_enough(place: Place):
    place.contain()
    place.file("proc/self/status", f"CapEff:\t{SYS_ADMIN:016x}\n")
    assert place.states() == {}


def test_a_rootless_container_is_told_that_it_cannot_be(place: Place):
    place.contain()
    place.file("proc/self/uid_map", "0 1000 1\n1 100000 65536\n")
    found = place.look()["capability"]
    assert found.stops
    assert "rootless" in found.what


def test_a_dev_of_its_own_gets_no_new_nodes(place: Place):
    place.contain()
    place.mounts(CONTAINER.replace("0:6 / /dev rw,nosuid - devtmpfs devtmpfs", "0:53 / /dev rw,nosuid - tmpfs tmpfs"))
    found = place.look()["/dev"]
    assert found.stops
    assert "--volume /dev:/dev" in found.remedy
    (place.root / "run/.containerenv").unlink()
    outside = place.look()["/dev"]
    assert (outside.state, outside.stops) == ("note", False)


def test_a_dev_without_devices_is_said(place: Place):
    place.mounts(HOST.replace("/dev rw,nosuid", "/dev rw,nodev"))
    assert "nodev" in place.look()["/dev"].what
    assert place.look()["/dev"].stops


def test_device_rules_are_proven_by_the_kernel(place: Place):
    place.contain()
    place.kernel = ToldKernel(refused=dict.fromkeys(SCSI_MAJORS, errno.EPERM))
    found = place.look()["block devices"]
    assert found.stops
    assert "--device-cgroup-rule='b 8:* rw', and the same for 65, 66, 67" in found.remedy


def test_rules_for_the_first_disks_only_are_noted(place: Place):
    place.contain()
    place.kernel = ToldKernel(refused=dict.fromkeys(SCSI_MAJORS[1:], errno.EPERM))
    found = place.look()["block devices"]
    assert (found.state, found.stops) == ("note", False)
    assert "17th" in found.what
    assert "'b 65:* rw'" in found.remedy
    assert "'b 8:* rw'" not in found.remedy


def test_where_no_node_can_be_made_the_disks_there_are_asked(place: Place):
    place.kernel = ToldKernel(numbers=False)
    assert "sda may be opened" in place.look()["block devices"].what
    place.kernel = ToldKernel(numbers=False, refused={"sda": errno.EPERM})
    assert "control group deny" in place.look()["block devices"].what
    assert "DeviceAllow=block-sd rw" in place.look()["block devices"].remedy
    place.kernel = ToldKernel(numbers=False, refused={"sda": errno.EACCES})
    closed = place.look()["block devices"]
    assert closed.stops
    assert "group disk" in closed.remedy


def test_without_any_disk_to_ask_nothing_is_claimed(place: Place):
    place.kernel = ToldKernel(numbers=False)
    (place.root / "dev/sda").unlink()
    found = place.look()["block devices"]
    assert (found.state, found.stops) == ("note", False)


def test_a_white_list_of_version_one_decides(place: Place):
    place.mounts(HOST + "35 31 0:31 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n")
    place.file("proc/self/cgroup", "5:devices:/mover\n0::/\n")
    place.file("sys/fs/cgroup/devices/mover/devices.list", "c 1:3 rwm\n")
    place.file("sys/fs/cgroup/devices/devices.list", "a *:* rwm\n")
    assert place.look()["block devices"].stops


def test_a_sys_that_is_missing_or_read_only(place: Place):
    place.contain()
    place.file("sys/class/scsi_host/host0/scan")
    place.kernel = ToldKernel(refused={"scan": errno.EROFS})
    found = place.look()["/sys"]
    assert (found.state, found.stops) == ("note", False)
    place.kernel = ToldKernel()
    place.mounts(CONTAINER.replace("0:22 / /sys rw,nosuid", "0:22 / /sys ro,nosuid"))
    assert place.look()["/sys"].state == "note"
    place.mounts("\n".join(line for line in CONTAINER.splitlines() if " /sys " not in line))
    assert place.look()["/sys"].stops


def test_a_network_of_its_own_hides_who_we_are(place: Place):
    place.contain()
    (place.root / "sys/class/net/eth0/device/vendor").unlink()
    (place.root / "sys/class/net/eth0/device").rmdir()
    found = place.look()["network"]
    assert found.stops
    assert "--network host" in found.remedy


# --- what must last -------------------------------------------------------------------


def test_a_state_folder_in_the_container_is_lost_with_it(place: Place):
    place.contain()
    place.mounts("\n".join(line for line in CONTAINER.splitlines() if " /var/lib/mover " not in line))
    found = place.look()["state kept"]
    assert (found.state, found.stops) == ("problem", False)
    assert "--volume NAME:/var/lib/mover" in found.remedy
    place.mounts(CONTAINER.replace("/volumes/mover/_data", f"/volumes/{'0a' * 32}/_data"))
    assert "volume without a name" in place.look()["state kept"].what


def test_a_state_folder_in_memory_is_lost_anywhere(place: Place):
    place.mounts(f"{HOST}50 27 0:60 / /var/lib/mover rw - tmpfs tmpfs rw\n")
    assert "lost at the next restart" in place.look()["state kept"].what


def test_each_folder_has_its_line(place: Place):
    place.contain()
    found = place.look(folders={**UNITS, "repository": Path("/backup")})
    assert (found["state kept"].state, found["repository kept"].state) == ("ok", "problem")


def test_the_deepest_and_last_mount_holds_a_path(place: Place):
    lines = (
        "50 27 0:60 / /srv rw - xfs x rw",
        "51 27 0:61 / /srv rw - tmpfs t rw",
        "52 27 0:6 / /s\\040v rw - ext4 y rw",
    )
    place.mounts(HOST + "\n".join(lines))
    points = mount_points(place.root)
    assert mount_of(Path("/srv/a/b"), points).kind == "tmpfs"
    assert mount_of(Path("/srvx"), points).kind == "ext4"
    assert mount_of(Path("/s v/x"), points).kind == "ext4"
    assert mount_of(Path("/anything"), ()) is None


# --- the real machine -----------------------------------------------------------------


def test_without_proc_nothing_is_told(place: Place):
    (place.root / "proc/self/mountinfo").unlink()
    assert place.look()["/proc"].stops


def test_a_lab_is_left_alone(tmp_path: Path):
    settings = Settings.model_validate({"node": {"device_root": str(tmp_path)}})
    assert inspect_place(settings, UNITS) == []


def test_the_machine_below_can_be_looked_at():
    found = {line.subject: line for line in inspect_place(Settings(), {})}
    assert {"capability", "/dev", "block devices", "/sys", "memory", "processors", "threads"} <= set(found)


def test_asking_opens_nothing_and_leaves_nothing(tmp_path: Path):
    kernel = RunningKernel(tmp_path / "absent", tmp_path)
    mine = tmp_path / "mine"
    mine.touch()
    assert kernel.refusal(mine) == 0
    assert kernel.refusal(tmp_path / "none") == errno.ENOENT
    kernel.refusal_of_number(8, 255)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="making a device node needs root")
def test_a_number_without_a_disk_can_be_asked_for(tmp_path: Path):
    assert RunningKernel(tmp_path).refusal_of_number(8, 255) in (0, errno.EPERM)
