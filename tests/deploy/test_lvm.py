"""The drop-ins of deploy/lvm: the guard accepts them, and a real LVM does with them what they promise."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mover.device import guard_lvm
from mover.device.guard import inspect_node, md_auto
from mover.device.guard_multipath import is_blacklisted, parse_multipath
from tests.support.loopback import loop, needs_loops
from tests.support.programs import needs
from tests.support.source import ROOT

DROP_INS = ROOT / "deploy/lvm"


def text(name: str) -> str:
    return (DROP_INS / name).read_text("utf-8")


def place(root: Path, path: str, content: str) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(content)


def node(root: Path) -> Path:
    """A node with everything that could take a guest's disk, as a distribution installs it."""
    for program in ("usr/sbin/lvm", "usr/sbin/mdadm", "usr/sbin/multipathd", "proc/self/mountinfo"):
        place(root, program, "")
    place(root, "etc/lvm/lvm.conf", "devices {\n\t# use_devicesfile = 0\n}\n")
    place(root, "usr/lib/systemd/system/udisks2.service", "")
    (root / "sys/block").mkdir(parents=True)
    target = root / "etc/systemd/system/default.target"
    target.parent.mkdir(parents=True)
    target.symlink_to("/usr/lib/systemd/system/graphical.target")
    return root


def states(root: Path) -> dict[str, str]:
    return {finding.subject: finding.state for finding in inspect_node(root, lambda _: None)}


def install(root: Path, lvmlocal: str) -> None:
    place(root, "etc/lvm/lvmlocal.conf", text(lvmlocal))
    place(root, "etc/multipath/conf.d/mover.conf", text("multipath-mover.conf"))
    place(root, "etc/mdadm/mdadm.conf", text("mdadm-mover.conf"))
    place(root, "etc/udev/rules.d/99-mover.rules", text("99-mover.rules"))


def test_the_guard_is_content_with_the_drop_ins_and_not_without(tmp_path: Path):
    root = node(tmp_path)
    assert set(states(root).values()) == {"problem"}
    install(root, "lvmlocal-devicesfile.conf")
    place(root, "etc/lvm/devices/system.devices", "")
    assert states(root) == {"lvm": "ok", "multipath": "ok", "md": "ok", "automount": "ok"}


def test_the_guard_is_content_with_the_filters_where_there_is_no_devices_file(tmp_path: Path):
    root = node(tmp_path)
    install(root, "lvmlocal-filters.conf")
    assert states(root)["lvm"] == "ok"


def test_the_filters_comment_shows_an_accept_that_is_anchored():
    shown = [line.strip("# \n") for line in text("lvmlocal-filters.conf").splitlines() if '"a|^/dev/disk' in line]
    (settings,) = [guard_lvm.parse_lvm(f"filter = [ {line} ]") for line in shown]
    assert settings.filter is not None
    assert guard_lvm.leak(settings.filter, {"sda"}) is None


def test_each_drop_in_is_what_its_own_reader_wants():
    assert is_blacklisted(parse_multipath(text("multipath-mover.conf")))
    assert md_auto(text("mdadm-mover.conf")) == ("-all",)


def test_every_line_has_its_reason():
    for path in [*DROP_INS.glob("*.conf"), *DROP_INS.glob("*.rules")]:
        lines = path.read_text("utf-8").splitlines()
        says = sum(line.lstrip().startswith("#") for line in lines)
        does = sum(bool(line.strip(" \t{}")) and not line.lstrip().startswith("#") for line in lines)
        assert says >= does, path.name


class RealLvm:
    """LVM's own program on two block devices named sda and sdaa, below a folder of its own."""

    def __init__(self, folder: Path, devices: dict[str, Path]) -> None:
        self.dev, self.system = folder / "dev", folder / "etc"
        self.dev.mkdir()
        self.system.mkdir()
        for name, device in devices.items():
            os.mknod(self.dev / name, 0o600 | stat.S_IFBLK, device.stat().st_rdev)
        (self.system / "lvm.conf").write_text(
            "config { checks = 1 }\n"
            f'global {{ locking_dir = "{folder}/lock" }}\n'
            "backup { backup = 0\n archive = 0 }\n"
            f'devices {{ dir = "{self.dev}"\n scan = [ "{self.dev}" ]\n use_devicesfile = 0\n hints = "none"\n'
            ' obtain_device_list_from_udev = 0\n external_device_info_source = "none" }\n'
        )

    def run(self, *command: str) -> str:
        environment = {**os.environ, "LVM_SYSTEM_DIR": str(self.system), "LVM_SUPPRESS_FD_WARNINGS": "1"}
        environment["PATH"] += ":/usr/sbin:/sbin"
        done = subprocess.run(["lvm", *command], capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def taken(self, *patterns: str) -> set[str]:
        """Which of the two LVM takes as its own, by this global_filter."""
        quoted = ", ".join(f'"{pattern}"' for pattern in patterns)
        options = ("--config", f"devices {{ global_filter = [ {quoted} ] }}") if patterns else ()
        return {Path(line.strip()).name for line in self.run("pvs", "--noheadings", "-o", "pv_name", *options).split()}


@pytest.fixture
def lvm(tmp_path: Path) -> Iterator[RealLvm]:
    images = [tmp_path / "own.img", tmp_path / "guest.img"]
    for image in images:
        image.touch()
        os.truncate(image, 16 << 20)
    with loop(images[0]) as own, loop(images[1]) as guest:
        made = RealLvm(tmp_path, {"sda": own, "sdaa": guest})
        made.run("pvcreate", "--yes", str(made.dev / "sda"), str(made.dev / "sdaa"))
        yield made


REAL = [*needs_loops, needs("lvm")]


class TestRealLvm:
    pytestmark = REAL

    def test_the_unanchored_filter_of_other_manuals_takes_a_guests_disk(self, lvm: RealLvm):
        assert lvm.taken(f"a|^{lvm.dev}/sda|", "r|.*|") == {"sda", "sdaa"}
        assert lvm.taken(f"a|^{lvm.dev}/sda$|", "r|.*|") == {"sda"}

    def test_the_guard_and_lvm_agree(self, lvm: RealLvm):
        for pattern in ("a|^%s/sda|", "a|^%s/sda$|", "a|sda$|", "r|^%s/sda$|"):
            patterns = (pattern.replace("%s", str(lvm.dev)), "r|.*|")
            expected = {name for name in ("sda", "sdaa") if guard_lvm.verdict(patterns, [f"{lvm.dev}/{name}"])[0]}
            assert lvm.taken(*patterns) == expected, pattern

    def test_the_drop_in_with_filters_hides_every_disk(self, lvm: RealLvm):
        assert lvm.taken() == {"sda", "sdaa"}
        shutil.copy(DROP_INS / "lvmlocal-filters.conf", lvm.system / "lvmlocal.conf")
        assert "valid" in lvm.run("lvmconfig", "--validate")
        assert lvm.taken() == set()

    def test_a_devices_file_hides_what_it_does_not_list_and_none_hides_nothing(self, lvm: RealLvm):
        shutil.copy(DROP_INS / "lvmlocal-devicesfile.conf", lvm.system / "lvmlocal.conf")
        assert "valid" in lvm.run("lvmconfig", "--validate")
        assert lvm.taken() == {"sda", "sdaa"}, "switched on without a file: LVM takes everything"
        (lvm.system / "devices").mkdir(exist_ok=True)
        (lvm.system / "devices/system.devices").touch()
        assert lvm.taken() == set()
        lvm.run("lvmdevices", "--yes", "--adddev", str(lvm.dev / "sda"))
        assert lvm.taken() == {"sda"}
