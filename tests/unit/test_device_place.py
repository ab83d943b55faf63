"""What container, unit and kernel let mover do, told from trees that look like theirs."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mover.config import Settings
from mover.device.cgroup import allows_blocks_of, limits
from mover.device.container import BASE_BYTES, BASE_TASKS, inspect_below, inspect_place, recognise
from mover.device.mountinfo import mount_of, mount_points
from mover.device.rights import SCSI_MAJORS, NodeFinding, RunningKernel, require_rights
from mover.errors import DeviceRightsMissing
from mover.units import MIB

FULL = 0x1FFFFFFFFFF
SYS_ADMIN = 1 << 21
HOST = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
23 27 0:22 / /sys rw,relatime - sysfs sysfs rw
24 27 0:6 / /dev rw,nosuid - devtmpfs devtmpfs rw,size=4k
27 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
31 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw
"""
CONTAINER = """\
600 580 0:50 / / ro,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u
601 600 0:52 / /proc rw,nosuid - proc proc rw
602 600 0:6 / /dev rw,nosuid - devtmpfs devtmpfs rw
603 600 0:22 / /sys rw,nosuid - sysfs sysfs rw
604 603 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup2 rw
605 600 8:1 /var/lib/containers/storage/volumes/mover/_data /var/lib/mover rw - ext4 /dev/sda1 rw
"""
UNITS = {"state": Path("/var/lib/mover")}


class FakeKernel:
    """Answers as told. refused: path or major number → errno; numbers: False where no node can be made."""

    def __init__(self, *, numbers: bool = True, refused: dict[object, int] | None = None) -> None:
        self._numbers = numbers
        self._refused = refused or {}

    def refusal(self, path: Path, mode: int = os.R_OK | os.W_OK) -> int:
        return self._refused.get(path.name, 0)

    def refusal_of_number(self, major: int, minor: int) -> int | None:
        return self._refused.get(major, 0) if self._numbers else None


class Place:
    """A machine below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment: dict[str, str] = {}
        self.kernel = FakeKernel()
        self.mounts(HOST)
        self.file("proc/self/uid_map", "         0          0 4294967295\n")
        self.file("proc/self/status", f"Name:\tmover\nCapEff:\t{FULL:016x}\n")
        self.file("proc/self/cgroup", "0::/system.slice/mover.service\n")
        self.file("sys/class/net/eth0/device/vendor", "0x1af4\n")
        self.file("sys/class/net/lo/address", "00:00:00:00:00:00\n")
        self.group("/system.slice/mover.service")
        (root / "sys/block/sda").mkdir(parents=True)
        self.file("dev/sda")

    def file(self, path: str, text: str = "") -> Path:
        full = self.root / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_text(text)
        return full

    def mounts(self, text: str) -> None:
        self.file("proc/self/mountinfo", text)

    def group(self, path: str, **files: str) -> None:
        """Files of a control group; ``_`` for the dot in their names."""
        (self.root / f"sys/fs/cgroup{path}").mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            self.file(f"sys/fs/cgroup{path}/{name.replace('_', '.', 1)}", text)

    def contain(self) -> None:
        """Podman, rightly started."""
        self.mounts(CONTAINER)
        self.file("run/.containerenv")
        self.file("proc/self/cgroup", "0::/\n")

    def look(self, settings: Settings | None = None, folders: dict[str, Path] | None = None) -> dict[str, NodeFinding]:
        found = inspect_below(
            self.root, settings or Settings(), UNITS if folders is None else folders, self.kernel, self.environment
        )
        assert all(line.remedy for line in found if line.state != "ok")
        return {line.subject: line for line in found}

    def states(self) -> dict[str, str]:
        return {subject: line.state for subject, line in self.look().items() if line.state != "ok"}


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
    place.kernel = FakeKernel(refused=dict.fromkeys(SCSI_MAJORS, errno.EPERM))
    found = place.look()["block devices"]
    assert found.stops
    assert "--device-cgroup-rule='b 8:* rw', and the same for 65, 66, 67" in found.remedy


def test_rules_for_the_first_disks_only_are_noted(place: Place):
    place.contain()
    place.kernel = FakeKernel(refused=dict.fromkeys(SCSI_MAJORS[1:], errno.EPERM))
    found = place.look()["block devices"]
    assert (found.state, found.stops) == ("note", False)
    assert "17th" in found.what
    assert "'b 65:* rw'" in found.remedy
    assert "'b 8:* rw'" not in found.remedy


def test_where_no_node_can_be_made_the_disks_there_are_asked(place: Place):
    place.kernel = FakeKernel(numbers=False)
    assert "sda may be opened" in place.look()["block devices"].what
    place.kernel = FakeKernel(numbers=False, refused={"sda": errno.EPERM})
    assert "control group deny" in place.look()["block devices"].what
    assert "DeviceAllow=block-sd rw" in place.look()["block devices"].remedy
    place.kernel = FakeKernel(numbers=False, refused={"sda": errno.EACCES})
    closed = place.look()["block devices"]
    assert closed.stops
    assert "group disk" in closed.remedy


def test_without_any_disk_to_ask_nothing_is_claimed(place: Place):
    place.kernel = FakeKernel(numbers=False)
    (place.root / "dev/sda").unlink()
    found = place.look()["block devices"]
    assert (found.state, found.stops) == ("note", False)


@pytest.mark.parametrize(
    ("rules", "allowed"),
    [
        ("a *:* rwm", True),
        ("c 1:3 rwm\nb 8:* rw", True),
        ("b *:* rwm", True),
        ("b *:* m\nc *:* m", False),
        ("b 8:0 rwm", False),
        ("b 8:* r", False),
        ("b 65:* rw", False),
        ("c 8:* rwm", False),
        ("", False),
    ],
)
def test_white_lists_of_version_one(rules: str, allowed: bool):
    assert allows_blocks_of(rules.splitlines(), 8) is allowed


def test_a_white_list_of_version_one_decides(place: Place):
    place.mounts(HOST + "35 31 0:31 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n")
    place.file("proc/self/cgroup", "5:devices:/mover\n0::/\n")
    place.file("sys/fs/cgroup/devices/mover/devices.list", "c 1:3 rwm\n")
    place.file("sys/fs/cgroup/devices/devices.list", "a *:* rwm\n")
    assert place.look()["block devices"].stops


def test_a_sys_that_is_missing_or_read_only(place: Place):
    place.contain()
    place.file("sys/class/scsi_host/host0/scan")
    place.kernel = FakeKernel(refused={"scan": errno.EROFS})
    found = place.look()["/sys"]
    assert (found.state, found.stops) == ("note", False)
    place.kernel = FakeKernel()
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


# --- limits ---------------------------------------------------------------------------


def test_memory_below_the_budget_is_a_problem(place: Place):
    wanted = Settings().data.budget + BASE_BYTES
    place.group("/system.slice/mover.service", memory_max=f"{wanted - 1}\n")
    assert place.look()["memory"].state == "problem"
    place.group("/system.slice/mover.service", memory_max=f"{wanted}\n")
    assert place.look()["memory"].state == "ok"
    place.group("/system.slice", memory_max=f"{64 * MIB}\n")
    assert "64.0 MiB allowed" in place.look()["memory"].what


def test_no_limit_is_none(place: Place):
    place.group("/system.slice/mover.service", memory_max="max\n", cpu_max="max 100000\n", pids_max="max\n")
    found = limits(place.root)
    assert (found.memory_bytes, found.cores, found.tasks, found.throttles) == (None, None, None, ())
    assert found.device_rules is None


def test_a_quota_below_the_compute_threads_is_noted(place: Place):
    settings = Settings.model_validate({"data": {"compute_threads": 4}})
    place.group("/system.slice/mover.service", cpu_max="150000 100000\n")
    found = place.look(settings)["processors"]
    assert (found.state, found.what) == ("note", "a quota of 1.5 processors for 4 compute threads")
    assert "data.compute_threads to 1" in found.remedy
    place.group("/system.slice/mover.service", cpu_max="400000 100000\n")
    assert place.look(settings)["processors"].state == "ok"


def test_too_few_threads_are_a_problem(place: Place):
    place.group("/system.slice/mover.service", pids_max=f"{BASE_TASKS}\n")
    assert place.look()["threads"].state == "problem"
    place.group("/system.slice/mover.service", pids_max="2048\n")
    assert place.look()["threads"].state == "ok"


def test_limits_of_io_are_named(place: Place):
    place.group("/system.slice/mover.service", io_max="8:0 rbps=104857600 wbps=max riops=max wiops=200\n")
    found = place.look()["io limits"]
    assert found.state == "note"
    assert found.what == "The control group limits io: 8:0 reads 105 MB/s; 8:0 writes 200/s."


def test_limits_of_version_one(place: Place):
    """As a container sees them: its own group is the top of each mount, under another name outside."""
    lines = "".join(
        f"{number} 31 0:{number} /docker/ab /sys/fs/cgroup/{names} ro - cgroup cgroup rw,{names}\n"
        for number, names in enumerate(("memory", "cpu,cpuacct", "pids", "blkio", "devices"), start=40)
    )
    place.mounts(HOST + lines)
    place.file(
        "proc/self/cgroup",
        "5:devices:/docker/ab\n4:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab\n2:pids:/docker/ab\n1:blkio:/docker/ab\n",
    )
    top = "sys/fs/cgroup"
    place.file(f"{top}/memory/memory.limit_in_bytes", "67108864\n")
    place.file(f"{top}/cpu,cpuacct/cpu.cfs_quota_us", "50000\n")
    place.file(f"{top}/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    place.file(f"{top}/pids/pids.max", "20\n")
    place.file(f"{top}/blkio/blkio.throttle.write_iops_device", "8:16 50\n")
    place.file(f"{top}/devices/devices.list", "b *:* m\nb 8:* rwm\n")
    found = limits(place.root)
    assert found.memory_bytes == 64 * MIB
    assert (found.cores, found.tasks, found.throttles) == (0.5, 20, ("8:16 writes 50/s",))
    assert found.device_rules == ("b *:* m", "b 8:* rwm")


def test_version_one_writes_no_limit_as_a_large_number(place: Place):
    place.mounts(HOST + "40 31 0:40 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n")
    place.file("proc/self/cgroup", "4:memory:/a\n")
    place.file("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n")
    assert limits(place.root).memory_bytes is None


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
