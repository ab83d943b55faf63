"""Names, selection, hooks, values, preflight lines: the small parts of operations."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from mover.clock import SystemClock
from mover.config import HookSettings
from mover.errors import (
    AmbiguousName,
    HookFailed,
    HypervisorUnreachable,
    NoSuchVm,
    ProxyUnfit,
    RepositoryMissing,
    RequestRefused,
    StoreUnreachable,
    UsageError,
)
from mover.hypervisor.protocol import About
from mover.model.machine import Disk, DiskKind, Slot, Vm
from mover.operations.hooks import run_hook
from mover.operations.names import install_id, job_of, name_of, prefix_of
from mover.operations.preflight import PreflightPorts, _room, preflight
from mover.operations.request import BackupRequest, RestoreDiskRequest, RestoreRequest
from mover.operations.select import check_has_disk, exclusions, select_vms
from mover.operations.values import dump, load
from mover.storage.probe import probe
from mover.storage.protocol import ObjectInfo
from mover.storage.stack import open_store
from mover.units import GIB, MIB
from tests.support.fakehypervisor import CLUSTER
from tests.support.repositories import until
from tests.support.world import world

VALUES = {"vm_name": "web 1", "vm_uuid": "u1", "job_id": "j1"}


# --- names ---


def test_the_install_id_is_made_once(tmp_path):
    first = install_id(tmp_path / "state")
    assert install_id(tmp_path / "state") == first
    assert len(first) == 8
    assert install_id(tmp_path / "other") != first


def test_a_name_tells_whose_it_is():
    name = name_of(install="0a1b2c3d", node="Backup-Node-1", job="0123456789abcdef", kind="snapshot-1")
    assert name == "mover-0a1b2c3d-backupno-0123456789abcdef-snapshot-1"
    assert name.startswith(prefix_of("0a1b2c3d"))
    assert job_of(name, "0a1b2c3d") == "0123456789abcdef"
    assert job_of(name, "ffffffff") is None
    assert job_of("mover-web01", "0a1b2c3d") is None


def test_names_stay_within_what_prism_takes():
    assert len(name_of(install="0" * 8, node="!", job="0" * 16, kind="k" * 20)) <= 64
    with pytest.raises(ValueError, match="longer than 64"):
        name_of(install="0" * 8, node="n" * 8, job="0" * 16, kind="k" * 30)


# --- selection ---


def vm(name, uuid, **facts):
    return Vm(uuid, name, CLUSTER.uuid, None, True, (), **facts)


VMS = [
    vm("web01", "u1"),
    vm("web02", "u2"),
    vm("db", "u3"),
    vm("db", "u4"),
    vm("proxy", "p"),
    vm("cvm", "c", refusal="CVM"),
]


def names(*words):
    return [found.uuid for found in select_vms(VMS, words, proxy_uuid="p")]


def test_vms_are_meant_by_name_uuid_and_pattern():
    assert names("web01") == ["u1"]
    assert names("U3") == ["u3"]
    assert names("web*", "web01") == ["u1", "u2"]
    assert names("*") == ["u3", "u4", "u1", "u2"]


def test_names_that_mean_none_or_several():
    with pytest.raises(NoSuchVm) as caught:
        names("web03")
    assert "web02" in caught.value.remedy
    with pytest.raises(NoSuchVm, match="zzz"):
        names("zzz*")
    with pytest.raises(AmbiguousName) as caught:
        names("db")
    assert caught.value.facts["uuids"] == ["u3", "u4"]


def test_a_name_that_looks_like_a_pattern_is_found():
    odd = [vm("[old] web01", "u1"), vm("web*", "u2"), vm("web02", "u3")]
    chosen = select_vms(odd, ["[old] web01"], proxy_uuid="p")
    assert [one.uuid for one in chosen] == ["u1"]
    assert {one.uuid for one in select_vms(odd, ["web*"], proxy_uuid="p")} == {"u2", "u3"}
    with pytest.raises(NoSuchVm):
        select_vms(odd, ["[new] web01"], proxy_uuid="p")


def test_vms_that_are_never_backed_up():
    with pytest.raises(ProxyUnfit):
        names("proxy")
    with pytest.raises(RequestRefused, match="CVM"):
        names("cvm")


def test_a_vm_of_which_a_snapshot_holds_nothing_is_refused_in_words():
    bare = vm("bare", "u9")
    for disks, said in (((), "bare has no disk"), ((DiskKind.CDROM,), "no disk"), ((DiskKind.VOLUME_GROUP,), "groups")):
        parts = tuple(Disk(f"d{n}", Slot("scsi", n), kind) for n, kind in enumerate(disks))
        with pytest.raises(UsageError, match=said):
            check_has_disk(replace(bare, disks=parts))
    check_has_disk(replace(bare, disks=(disk("scsi.0", GIB),)))


def disk(slot, size):
    return Disk(f"d-{slot}", Slot.parse(slot), DiskKind.DISK, size)


def test_disks_are_left_out_by_slot_bus_and_size():
    disks = [disk("scsi.0", GIB), disk("scsi.1", 40 * GIB), disk("sata.0", 3 * GIB)]
    assert exclusions(disks, ["SCSI.1"]) == {"d-scsi.1": "SCSI.1"}
    assert exclusions(disks, ["sata"]) == {"d-sata.0": "sata"}
    assert exclusions(disks, [">2GiB"]) == {"d-scsi.1": ">2GiB", "d-sata.0": ">2GiB"}
    assert exclusions(disks, ["<2GiB", "=3GiB"]) == {"d-scsi.0": "<2GiB", "d-sata.0": "=3GiB"}
    assert exclusions(disks, []) == {}
    for wrong in ("scsi.x", "", "42", ">much"):
        with pytest.raises(UsageError):
            exclusions(disks, [wrong])


# --- hooks ---


def shell(text, **facts):
    return HookSettings(command=["/bin/sh", "-c", text], **facts)


async def test_a_hook_gets_its_values_and_no_shell(tmp_path):
    target = tmp_path / "out"
    settings = HookSettings(command=["/usr/bin/touch", f"{target}-{{vm_name}}-{{job_id}}-{{other}}"])
    assert await run_hook(settings, VALUES, which="pre-snapshot") is None
    assert [path.name for path in tmp_path.iterdir()] == ["out-web 1-j1-{other}"]
    assert await run_hook(HookSettings(), VALUES, which="pre-snapshot") is None


async def test_exit_codes_follow_the_policy():
    with pytest.raises(HookFailed, match="exit code 3: why") as caught:
        await run_hook(shell("echo why; exit 3"), VALUES, which="pre-snapshot")
    assert "backup.pre_snapshot.on_failure" in caught.value.remedy
    warning = await run_hook(shell("exit 3", on_failure="warn"), VALUES, which="post-snapshot")
    assert "post-snapshot command /bin/sh ended with exit code 3" in warning
    assert await run_hook(shell("exit 3", accept=[0, 3]), VALUES, which="pre-snapshot") is None
    with pytest.raises(HookFailed, match="could not be started: No such file"):
        await run_hook(HookSettings(command=["/nonexistent"]), VALUES, which="pre-snapshot")


async def test_a_hook_that_takes_too_long_is_killed_with_its_children():
    mark = f"1000.{os.getpid()}"
    with pytest.raises(HookFailed, match=r"was killed after 0\.2 s"):
        await run_hook(shell(f"sleep {mark} & wait", timeout=0.2), VALUES, which="pre-snapshot")
    # A killed process is gone a little after the signal was sent.
    await until(lambda: not living(mark))


def living(mark):
    """Processes that bear the mark in their command line (a dead one has none)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "cmdline").read_bytes():
                found.append(folder.name)
    return found


# --- values ---


async def test_requests_and_models_survive_as_json(tmp_path):
    async with world(tmp_path) as w:
        vm = w.hypervisor.add_vm("web", [4096], can_quiesce=True)
        assert load(Vm, dump(vm)) == vm
        request = BackupRequest.of(vm, w.node.settings.backup, w.clock, full=True, exclude=("scsi.1",))
        assert BackupRequest.read(request.values()) == request
        assert request.hook("pre") == HookSettings()
    restore = RestoreRequest("p", "n", network_map={"a": "b"})
    assert RestoreRequest.read(restore.values()) == restore
    into = RestoreDiskRequest("p", "scsi.0", "v", slot="scsi.3")
    assert RestoreDiskRequest.read(into.values()) == into


# --- preflight ---


def ports(w, **changes):
    @asynccontextmanager
    async def giving(thing):
        yield thing

    async def proxy(hypervisor):
        return w.hypervisor.named("proxy")

    standard = {
        "settings": w.node.settings,
        "clock": w.clock,
        "prism": lambda: giving(w.hypervisor),
        "proxy": proxy,
        "place": lambda: [],
        "guard": lambda: [],
        "store": lambda: giving(w.store),
        "probe": probe,
        "repository": lambda: giving(w.node.repository),
    }
    return PreflightPorts(**{**standard, **changes})


async def lines_of(given):
    return {line.subject: line for line in await preflight(given)}


async def test_a_sound_node_has_only_good_lines(tmp_path):
    async with world(tmp_path, prism__fingerprint="ab" * 32) as w:
        lines = await lines_of(ports(w))
    assert {line.state for line in lines.values()} == {"ok"}
    assert list(lines) == [
        "state folder",
        "Prism",
        "TLS",
        "rights",
        "clock",
        "own VM",
        "SCSI slots",
        "container",
        "store",
        "store space",
        "state space",
        "repository",
    ]
    assert lines["TLS"].what == "certificate checked by pinned fingerprint"


async def test_each_problem_has_its_line_and_remedy(tmp_path):
    async with world(tmp_path, limits__container_free="1PiB", prism__verify="no-i-accept-the-risk") as w:

        async def about():
            return About("element", "6.5", CLUSTER, "viewer", False, 400.0)

        w.hypervisor.about = about
        proxy = w.hypervisor.named("proxy")
        w.hypervisor.put(replace(proxy, disks=tuple(Disk(f"d{n}", Slot("scsi", n), DiskKind.DISK) for n in range(256))))
        lines = await lines_of(ports(w))
        states = {subject: line.state for subject, line in lines.items()}
        assert states["TLS"] == states["container"] == "note"
        assert states["rights"] == states["clock"] == states["SCSI slots"] == "problem"
        assert all(line.remedy for line in lines.values() if line.state != "ok")
        w.hypervisor.put(replace(w.hypervisor.named("proxy"), cluster_uuid="elsewhere"))
        assert (await lines_of(ports(w)))["own VM"].state == "problem"


async def test_what_cannot_be_reached_is_a_line_and_not_an_end(tmp_path):
    def down():
        raise HypervisorUnreachable("no answer from prism", remedy="See the network.")

    async with world(tmp_path) as w:
        lines = await lines_of(ports(w, prism=down))
        assert (lines["Prism"].state, lines["Prism"].what) == ("problem", "no answer from prism")
        assert lines["repository"].state == "ok"
        settings = w.node.settings.model_copy(update={"state_dir": tmp_path / "file" / "below"})
        (tmp_path / "file").touch()
        lines = await lines_of(ports(w, settings=settings))
    assert lines["state folder"].state == "problem"


@pytest.mark.parametrize(("free", "folder", "space"), [(700, "ok", "ok"), (200, "ok", "note"), (15, "problem", "note")])
async def test_room_in_the_state_folder_is_looked_at(tmp_path, monkeypatch, free, folder, space):
    """Two databases and the scratch of four disks in blocks of 256 KiB want 608 MiB; the index is nearly empty."""
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=free * MIB))
    async with world(tmp_path) as w:
        lines = await lines_of(ports(w))
        assert (lines["state folder"].state, lines["state space"].state) == (folder, space)
        assert bool(lines["state folder"].remedy) == (folder != "ok")
        assert "608 MiB may be needed" in lines["state space"].what


async def test_files_of_the_index_that_go_meanwhile_and_a_folder_that_is_closed_end_no_check(tmp_path, monkeypatch):
    async with world(tmp_path) as w:
        cache = w.node.settings.state_dir / "cache"
        cache.mkdir(parents=True, exist_ok=True)
        (cache / "merged-away.segment").symlink_to("gone")
        monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=GIB))
        assert (await lines_of(ports(w)))["state space"].state == "ok"

        def closed(place):
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(shutil, "disk_usage", closed)
        line = _room("cache space", cache, None, 1, "repository.cache_dir")
    assert (line.state, "Permission denied" in line.what) == ("note", True)


async def test_a_large_repository_wants_room_for_its_index_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1000 * MIB))
    async with world(tmp_path) as w:
        index, true_list = [ObjectInfo(f"index/{number}", 300 * MIB, 0.0) for number in range(2)], w.store.list

        async def listed(prefix):
            for info in index if prefix == "index/" else [info async for info in true_list(prefix)]:
                yield info

        monkeypatch.setattr(w.store, "list", listed)
        assert (await lines_of(ports(w)))["state space"].state == "note"
        repository = w.node.settings.repository.model_copy(update={"cache_dir": tmp_path / "not" / "yet"})
        lines = await lines_of(ports(w, settings=w.node.settings.model_copy(update={"repository": repository})))
    assert (lines["state space"].state, lines["cache space"].state) == ("ok", "note")
    assert "repository.cache_dir" in lines["cache space"].remedy


async def test_before_the_first_init_the_repository_is_a_note(tmp_path):
    @asynccontextmanager
    async def folder():
        yield await open_store(str(tmp_path / "none"), {}, clock=SystemClock())

    @asynccontextmanager
    async def nothing():
        raise RepositoryMissing("There is no repository at this place", remedy="Check the address.")
        yield

    @asynccontextmanager
    async def away():
        raise StoreUnreachable("No answer from the store", remedy="See the network.")
        yield

    async with world(tmp_path) as w:
        line = (await lines_of(ports(w, store=folder)))["store"]
        assert (line.state, "mover init" in line.remedy, "Mount" in line.remedy) == ("note", True, True)
        line = (await lines_of(ports(w, repository=nothing)))["repository"]
        assert (line.state, line.remedy) == ("note", "Make one with: mover init")
        assert (await lines_of(ports(w, store=away)))["store"].state == "problem"
