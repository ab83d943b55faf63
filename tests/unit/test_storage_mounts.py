"""How late a folder's listing may be, by what it is mounted from."""

from __future__ import annotations

import pytest

from mover.storage.local import LocalStore
from mover.storage.mounts import Mount, list_lag_s, mount_of, read_mount

MOUNTINFO = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
40 22 0:44 / /backup rw,relatime shared:20 - nfs4 10.0.0.9:/export rw,vers=4.2,rsize=1048576,hard
41 22 0:45 / /quick rw,noac master:7 propagate_from:2 - nfs 10.0.0.9:/quick rw,acregmin=3,acdirmax=3
42 22 0:46 / /share rw - cifs //server/share rw,vers=3.1.1,actimeo=1
43 22 0:47 /a\\040b /mnt/a\\040b rw - fuse.sshfs host:/x rw,user_id=0
broken line
"""


@pytest.mark.parametrize(
    ("device", "kind", "lag_s"),
    [("8:1", "ext4", 0), ("0:44", "nfs4", 60), ("0:45", "nfs", 0), ("0:46", "cifs", 1), ("0:47", "fuse.sshfs", 60)],
)
def test_the_mount_of_a_device_and_its_lag(device, kind, lag_s):
    mount = mount_of(device, MOUNTINFO)
    assert mount is not None
    assert (mount.kind, list_lag_s(mount)) == (kind, lag_s)


def test_what_the_kernel_does_not_name_lags_by_nothing():
    assert mount_of("9:9", MOUNTINFO) is None
    assert list_lag_s(None) == 0


@pytest.mark.parametrize(
    ("options", "lag_s"), [(("acdirmax=3", "acdirmin=1"), 3), (("acdirmax=3600",), 60), (("acdirmax=x",), 60)]
)
def test_options_of_the_mount_shorten_it(options, lag_s):
    assert list_lag_s(Mount("nfs4", options)) == lag_s


@pytest.mark.parametrize("kind", ["ceph", "xfs", "overlay", "tmpfs", "fuseblk", "lustre"])
def test_coherent_and_local_file_systems_do_not_lag(kind):
    assert list_lag_s(Mount(kind, ("rw",))) == 0


async def test_a_store_in_a_folder_says_what_it_lies_on(tmp_path, monkeypatch):
    assert read_mount(tmp_path) is not None
    monkeypatch.setattr("mover.storage.local.read_mount", lambda _: Mount("nfs4", ("rw",)))
    store = LocalStore(tmp_path)
    assert store.traits.list_lag_s == 60
    assert "nfs4, whose lists may lag by 60 s" in store.traits.description
    await store.close()
