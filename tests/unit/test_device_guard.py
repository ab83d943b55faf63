"""Whether a node would take a guest's disk, told from real distributions' configurations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from mover.device.guard import GuardFinding, inspect_node, md_auto, require_safe, run_tool, runner
from mover.device.guard_lvm import FilterError, leak, parse_lvm, verdict
from mover.device.guard_multipath import find_multipaths, is_blacklisted, judge, parse_multipath
from mover.errors import GuardRefused
from tests.support.fakekernel import FakeKernel

RHEL9_LVM_CONF = """\
# This is an example configuration file for the LVM2 system.
config {
	checks = 1
	# Configuration option config/abort_on_errors.
}
devices {
	# Configuration option devices/dir.
	dir = "/dev"
	# Configuration option devices/use_devicesfile.
	# This configuration option has an automatic default value.
	# use_devicesfile = 1

	# Configuration option devices/filter.
	# Example
	# Accept every block device:
	# filter = [ "a|.*|" ]
	# Reject the cdrom drive:
	# filter = [ "r|/dev/cdrom|" ]
	# This configuration option does not have a default value defined.

	# Configuration option devices/global_filter.
	# global_filter = [ "a|.*|" ]
	multipath_component_detection = 1
}
"""
DEBIAN12_LVM_CONF = RHEL9_LVM_CONF.replace("# use_devicesfile = 1", "# use_devicesfile = 0")
RHEL9_LVMCONFIG = """\
devices {
	dir="/dev"
	scan="/dev"
	use_devicesfile=1
	devicesfile="system.devices"
	search_for_devnames="auto"
	preferred_names=[]
	obtain_device_list_from_udev=1
}
"""
SYSTEM_DEVICES = """\
# LVM uses devices listed in this file.
# Created by LVM command vgimportdevices pid 1234 at Mon Jan  5 10:00:00 2026
PRODUCT_UUID=7c174117-320b-480f-ac05-b0f622127511
VERSION=1.1.3
IDTYPE=sys_wwid IDNAME=naa.6506b8d9aabbccddeeff001122334455 DEVNAME=/dev/sda3 PVID=sHZd3zUwLX1lqvFq PART=3
"""
SAFE = '["a|^/dev/sda3$|", "r|.*|"]'


def filters(text: str, other: str | None = None) -> str:
    return DEBIAN12_LVM_CONF.replace("\tdir =", f"\tfilter = {other or text}\n\tglobal_filter = {text}\n\tdir =")


class Node:
    """A node's files below a folder, and what its tools answer."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kernel = FakeKernel(root)
        self.kernel.plug(self.file("backing"), name="sda", vmdisk_uuid="7c174117-320b-480f-ac05-b0f622127511")
        self.answers: dict[str, str] = {}

    def file(self, path: str, text: str = "") -> Path:
        full = self.root / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_text(text)
        return full

    def run(self, command: Sequence[str]) -> str | None:
        return self.answers.get(command[0])

    def finding(self, subject: str) -> GuardFinding:
        return next(finding for finding in inspect_node(self.root, self.run) if finding.subject == subject)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_a_node_without_any_of_it_is_safe(node: Node):
    findings = inspect_node(node.root, node.run)
    assert {finding.subject for finding in findings} == {"lvm", "multipath", "md", "automount"}
    assert all(finding.state == "ok" and finding.remedy == "" for finding in findings)
    require_safe(findings)


def test_elsewhere_than_on_the_node_itself_no_tool_is_run(node: Node):
    assert runner(node.root)(["true"]) is None
    assert runner(Path("/"))(["echo", "hello"]) == "hello\n"


def test_a_tool_that_fails_or_is_missing_says_nothing():
    assert run_tool(["false"]) is None
    assert run_tool(["no-such-tool-anywhere"]) is None


# --- LVM ------------------------------------------------------------------------------


def test_rhel9_with_a_devices_file_is_safe(node: Node):
    node.answers["lvmconfig"] = RHEL9_LVMCONFIG
    node.file("etc/lvm/devices/system.devices", SYSTEM_DEVICES)
    assert node.finding("lvm").state == "ok"


def test_rhel9_without_its_devices_file_takes_every_disk(node: Node):
    node.answers["lvmconfig"] = RHEL9_LVMCONFIG
    finding = node.finding("lvm")
    assert finding.state == "problem"
    assert "touch /etc/lvm/devices/system.devices" in finding.remedy


def test_the_packaged_files_tell_the_default_where_lvmconfig_is_missing(node: Node):
    node.file("etc/lvm/lvm.conf", RHEL9_LVM_CONF)
    node.file("etc/lvm/devices/system.devices", SYSTEM_DEVICES)
    assert node.finding("lvm").state == "ok"
    node.file("etc/lvm/lvm.conf", DEBIAN12_LVM_CONF)
    assert node.finding("lvm").state == "problem"


def test_a_local_file_overrides(node: Node):
    node.file("etc/lvm/lvm.conf", RHEL9_LVM_CONF)
    node.file("etc/lvm/devices/system.devices", SYSTEM_DEVICES)
    node.file("etc/lvm/lvmlocal.conf", "devices { use_devicesfile = 0 }\n")
    assert node.finding("lvm").state == "problem"


def test_a_devices_file_that_goes_by_names_is_noted(node: Node):
    node.answers["lvmconfig"] = RHEL9_LVMCONFIG
    node.file("etc/lvm/devices/system.devices", SYSTEM_DEVICES.replace("IDTYPE=sys_wwid", "IDTYPE=devname"))
    finding = node.finding("lvm")
    assert finding.state == "note"
    assert finding.is_ok


def test_anchored_filters_are_safe(node: Node):
    node.file("etc/lvm/lvm.conf", filters(SAFE))
    assert node.finding("lvm").state == "ok"


def test_the_unanchored_filter_of_the_manuals_is_named_as_the_trap_it_is(node: Node):
    node.file("etc/lvm/lvm.conf", filters('["a|^/dev/sda|", "r|.*|"]'))
    finding = node.finding("lvm")
    assert finding.state == "problem"
    assert "/dev/sdaa" in finding.what
    assert "without $" in finding.what


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('["a|.*|"]', "accepts every disk, by 'a|.*|'"),
        ('["a|^/dev/sda3$|"]', "reject-all"),
        ('["r|^/dev/cdrom$|"]', "reject-all"),
        ('["a|/dev/disk/by-id/scsi-|", "r|.*|"]', "accepts"),
        ('["a|^/dev/sd[a-z]+3$|", "r|^/dev/sd|", "a|.*|"]', "accepts"),
        ('["a|^/dev/sda($|", "r|.*|"]', "no filter pattern"),
        ('["x|^/dev/sda$|", "r|.*|"]', "no filter pattern"),
    ],
)
def test_filters_that_let_a_guest_in_are_found(node: Node, text: str, words: str):
    node.file("etc/lvm/lvm.conf", filters(text))
    finding = node.finding("lvm")
    assert finding.state == "problem"
    assert words in finding.what


def test_one_of_the_two_filters_is_not_enough(node: Node):
    node.file("etc/lvm/lvm.conf", filters(SAFE, '["a|.*|"]'))
    assert "filter accepts" in node.finding("lvm").what
    node.file("etc/lvm/lvm.conf", DEBIAN12_LVM_CONF.replace("\tdir =", f"\tfilter = {SAFE}\n\tdir ="))
    assert "no global_filter" in node.finding("lvm").what


def test_the_remedy_names_the_nodes_own_volumes_and_is_itself_safe(node: Node):
    node.file("usr/sbin/lvm")
    node.kernel.partition("sda", 3, dev="8:19", holder="dm-0")
    node.file("sys/block/dm-0/dm/uuid", "LVM-abcdef\n")
    node.kernel.link("wwn-0x6506b8d9aabb-part3", "sda3")
    remedy = node.finding("lvm").remedy
    assert '"a|^/dev/disk/by-id/wwn-0x6506b8d9aabb-part3$|", "r|.*|"' in remedy
    pasted = parse_lvm("\n".join(line for line in remedy.splitlines() if "filter =" in line))
    assert pasted.filter == pasted.global_filter
    assert leak(pasted.filter or (), {"sda"}) is None
    assert "initramfs" in remedy


def test_with_own_volume_groups_the_devices_file_is_made_from_them(node: Node):
    node.answers["lvmconfig"] = RHEL9_LVMCONFIG
    node.kernel.hold("sda", "dm-0")
    node.file("sys/block/dm-0/dm/uuid", "LVM-abcdef\n")
    assert "vgimportdevices -a" in node.finding("lvm").remedy


def test_lvm_settings_are_read_as_lvm_reads_them():
    found = parse_lvm('devices { filter = [ "a|/dev/sd[ab]$|",  # "a|x|"\n "r/.*/" ] devicesfile = "node.devices" }')
    assert found.filter == ("a|/dev/sd[ab]$|", "r/.*/")
    assert found.devices_file == "node.devices"
    assert found.use_devices_file is None
    assert parse_lvm('filter = "a|#hash|"').filter == ("a|#hash|",)


@pytest.mark.parametrize(
    ("patterns", "names", "accepted"),
    [
        ([], ["/dev/sdb"], True),
        (["r|.*|"], ["/dev/sdb"], False),
        (["r|^/dev/sdb$|", "a|.*|"], ["/dev/sdb", "/dev/disk/by-id/x"], True),
        (["r|/sdb|"], ["/dev/sdb", "/dev/disk/by-id/x"], False),
        (["a(^/dev/sda$)", "r{.*}"], ["/dev/sda"], True),
    ],
)
def test_the_first_pattern_decides_for_a_name_and_one_accepted_name_for_a_disk(patterns, names, accepted: bool):
    assert verdict(patterns, names)[0] is accepted


def test_a_pattern_without_its_closing_delimiter_is_an_error():
    with pytest.raises(FilterError):
        verdict(["a|x"], ["/dev/sda"])


# --- multipath ------------------------------------------------------------------------

MPATHCONF = """\
# device-mapper-multipath configuration file
defaults {
	user_friendly_names yes
	find_multipaths yes
}

blacklist {
}
"""
BLACKLIST = """\
defaults {
    find_multipaths no   # all
}
blacklist
{
    devnode "^(ram|loop)[0-9]*"
    device {
        vendor "NUTANIX"
        product "VDISK"
    }
}
"""


def test_multipath_that_wants_two_paths_is_safe(node: Node):
    node.file("etc/multipath.conf", MPATHCONF)
    assert node.finding("multipath").state == "ok"


@pytest.mark.parametrize("mode", ["no", "off", "greedy", "smart"])
def test_multipath_that_takes_single_paths_is_a_problem_with_the_text_to_paste(node: Node, mode: str):
    node.file("etc/multipath.conf", MPATHCONF.replace("multipaths yes", f"multipaths {mode}"))
    finding = node.finding("multipath")
    assert finding.state == "problem"
    pasted = "\n".join(finding.remedy.splitlines()[1:-1])
    assert is_blacklisted(parse_multipath(pasted))


def test_what_is_in_force_counts_more_than_the_file(node: Node):
    node.file("etc/multipath.conf", MPATHCONF)
    node.answers["multipath"] = 'defaults {\n\tfind_multipaths "greedy"\n}\n'
    assert node.finding("multipath").state == "problem"


def test_a_multipath_that_is_off_is_safe(node: Node):
    node.file("usr/sbin/multipathd")
    node.answers["systemctl"] = "ActiveState=inactive\nUnitFileState=disabled\n"
    assert node.finding("multipath").state == "ok"
    node.answers["systemctl"] = "ActiveState=active\nUnitFileState=enabled\n"
    assert node.finding("multipath").state == "problem"


def test_drop_ins_are_read(node: Node):
    node.file("etc/multipath.conf", "defaults {\n}\n")
    node.file("etc/multipath/conf.d/nutanix.conf", BLACKLIST)
    assert node.finding("multipath").state == "ok"


def test_a_blacklist_covers_by_vendor_node_or_wwid_unless_taken_back():
    assert is_blacklisted(parse_multipath(BLACKLIST))
    assert is_blacklisted(parse_multipath('blacklist {\n devnode "^sd[a-z]+"\n}'))
    assert is_blacklisted(parse_multipath('blacklist {\n wwid "*"\n}'))
    assert is_blacklisted(parse_multipath('blacklist {\n device {\n vendor "NUTANIX.*"\n }\n}'))
    assert not is_blacklisted(parse_multipath('blacklist {\n devnode "!^(sd[a-z]|dasd[a-z]|nvme[0-9])"\n}'))
    assert not is_blacklisted(parse_multipath('blacklist {\n device {\n vendor "SGI"\n product "x"\n }\n}'))
    assert not is_blacklisted(parse_multipath('blacklist {\n devnode "["\n}'))
    taken_back = BLACKLIST + 'blacklist_exceptions {\n device {\n vendor "NUTANIX"\n product "VDISK"\n }\n}'
    assert not is_blacklisted(parse_multipath(taken_back))


def test_an_unstated_mode_counts_as_taking_everything():
    config = parse_multipath("defaults {\n}\n")
    assert find_multipaths(config) is None
    assert judge(config)[0] == "problem"


# --- md, automount, notes ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("AUTO -all\n", ("-all",)),
        ("MAILADDR root\nAUTO +imsm +1.x -all\n", ("+imsm", "+1.x", "-all")),
        ("auto\n  -all  # nothing by itself\n", ("-all",)),
        ("# AUTO -all\n", ()),
        ("ARRAY /dev/md0 UUID=1:2:3:4\n", ()),
    ],
)
def test_mdadms_auto_line_is_read_as_mdadm_reads_it(text: str, words: tuple[str, ...]):
    assert md_auto(text) == words


@pytest.mark.parametrize(
    ("path", "text", "state"),
    [
        ("etc/mdadm.conf", "MAILADDR root\nAUTO +imsm +1.x -all\n", "problem"),
        ("etc/mdadm.conf", "AUTO -all\n", "ok"),
        ("etc/mdadm/mdadm.conf", "HOMEHOST <system>\n", "problem"),
        ("etc/mdadm/mdadm.conf", "AUTO -all\n", "ok"),
        ("etc/mdadm/mdadm.conf.d/90-mover.conf", "AUTO -all\n", "ok"),
    ],
)
def test_md_is_safe_only_if_it_assembles_nothing_by_itself(node: Node, path: str, text: str, state: str):
    node.file("usr/sbin/mdadm")
    node.file(path, text)
    finding = node.finding("md")
    assert finding.state == state
    assert state == "ok" or f"/{path.split('.conf')[0]}.conf" in finding.remedy


def desktop(node: Node) -> None:
    node.file("usr/lib/systemd/system/udisks2.service")
    target = node.root / "etc/systemd/system/default.target"
    target.parent.mkdir(parents=True, exist_ok=True)
    os.symlink("/usr/lib/systemd/system/graphical.target", target)


def test_a_desktop_mounts_by_itself_until_a_rule_forbids_it(node: Node):
    desktop(node)
    finding = node.finding("automount")
    assert finding.state == "problem"
    rule = next(line for line in finding.remedy.splitlines() if "SUBSYSTEM" in line)
    node.file("etc/udev/rules.d/99-mover.rules", f"# {rule.strip()}\n")
    assert node.finding("automount").state == "problem"
    node.file("etc/udev/rules.d/99-mover.rules", f"{rule}\n")
    assert node.finding("automount").state == "ok"


def test_a_server_with_udisks_mounts_nothing(node: Node):
    node.file("usr/lib/systemd/system/udisks2.service")
    assert node.finding("automount").state == "ok"


def test_usbmount_is_an_automounter(node: Node):
    node.file("etc/usbmount/usbmount.conf")
    assert node.finding("automount").state == "problem"


def test_btrfs_zfs_and_containers_are_noted_and_refuse_nothing(node: Node):
    with (node.root / "proc/self/mountinfo").open("a") as mounts:
        mounts.write("30 1 0:35 / /data rw - btrfs /dev/sda4 rw\n")
    node.file("sys/module/zfs/version")
    node.file("run/.containerenv")
    findings = inspect_node(node.root, node.run)
    assert [finding.subject for finding in findings if finding.state == "note"] == ["btrfs", "zfs", "container"]
    require_safe(findings)


def test_problems_refuse_with_all_their_remedies(node: Node):
    node.file("usr/sbin/mdadm")
    node.file("etc/lvm/lvm.conf", DEBIAN12_LVM_CONF)
    with pytest.raises(GuardRefused) as caught:
        require_safe(inspect_node(node.root, node.run))
    assert caught.value.facts["subjects"] == ["lvm", "md"]
    assert "AUTO -all" in caught.value.remedy
    assert "global_filter" in caught.value.remedy
