"""Plugs disks of the bank into a folder that looks like the kernel's of the Proxy VM.

As root each is a loop device with direct I/O; otherwise the file itself, by a symlink.
What is plugged is remembered: a new Hotplug on the same folder keeps or re-makes it.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

from mover.errors import LabError
from mover.lab import badfile, decoy, extents, identity, loops
from mover.lab.disks import DiskBank
from mover.lab.identity import BlockFacts, Identity, derived_uuid
from mover.lab.plugs import Plug, PlugFaults, plug_of

__all__ = ["Hotplug", "Plug", "PlugFaults"]


class Hotplug:
    """The Proxy VM's SCSI bus. Thread-safe; blocking (milliseconds), so call it off the event loop.

    root: the folder that stands for "/", inside the bank's folder, so that ``disks.clean``
    finds everything. how: in words, what a device is here.
    """

    def __init__(self, root: Path, bank: DiskBank, *, seed: int = 0, use_loop: bool | None = None) -> None:
        self.root = root.resolve()
        self._bank = bank
        self._seed = seed
        self._lock = threading.RLock()
        self._plugs: dict[str, Plug] = {}
        self._timers: dict[str, threading.Timer] = {}
        self._bad_files: dict[str, badfile.BadFile] = {}
        self._decoys: dict[str, tuple[Path, str]] = {}
        self._leaving: list[int] = []
        self._sequence = 0
        reason = "as asked" if use_loop is False else loops.unusable_in(bank.root)
        if use_loop and reason:
            raise LabError(f"no loop devices here: {reason}", remedy="Run as root, or let the lab use files.")
        self._use_loop = reason is None
        if reason is not None:
            _need_direct_io(bank.root)
        self.how = "loop devices with direct I/O" if self._use_loop else f"direct-I/O files ({reason})"
        identity.make_skeleton(self.root)
        self._restore()

    # --- what the lab calls -----------------------------------------------------------

    def set_node(self, *, product_uuid: str, mac_addresses: Iterable[str]) -> None:
        """Say which VM this is."""
        identity.show_node(self.root, product_uuid, list(mac_addresses))

    def plugs(self) -> dict[str, Plug]:
        """vmdisk UUID → what is plugged now, decoys included."""
        with self._lock:
            return dict(self._plugs)

    def plug(self, path: Path, *, vmdisk_uuid: str, slot_index: int, faults: PlugFaults | None = None) -> str:
        """Make the disk a device; returns its name, also of one that is late or never comes.

        Raises LabError when the machine cannot make such a device; nothing is left then.
        """
        faults = faults or PlugFaults()
        with self._lock:
            if vmdisk_uuid in self._plugs:
                raise LabError(f"vmdisk {vmdisk_uuid} is plugged already", remedy="Detach it first.")
            try:
                if faults.decoy:
                    self._plug_decoy(path.stat().st_size, vmdisk_uuid, slot_index)
                plug = Plug(vmdisk_uuid, self._free_name(), path, slot_index, faults)
                self._remember(self._made(plug))
            except BaseException:
                self.unplug(vmdisk_uuid)
                raise
            if not faults.never and faults.late_s <= 0:
                self.appear(vmdisk_uuid)
            elif not faults.never:
                timer = threading.Timer(faults.late_s, self.appear, [vmdisk_uuid])
                timer.daemon = True
                self._timers[vmdisk_uuid] = timer
                timer.start()
            return plug.name

    def appear(self, vmdisk_uuid: str) -> None:
        """Show a late device now. Nothing happens when it is shown or gone already."""
        with self._lock:
            plug = self._plugs.get(vmdisk_uuid)
            if plug is None or plug.is_shown:
                return
            identity.show(self.root, plug.name, self._identity(plug), self._facts(plug))
            self._remember(replace(plug, is_shown=True))

    def unplug(self, vmdisk_uuid: str) -> None:
        """Take the device away, its decoy too. Idempotent.

        Whoever still has it open reads on until ``DiskBank.drop`` deletes the disk.
        """
        with self._lock:
            for plug in [one for one in self._plugs.values() if vmdisk_uuid in (one.vmdisk_uuid, one.decoy_of)]:
                self._release(plug)
                del self._plugs[plug.vmdisk_uuid]
                self._save()

    def vanish(self, vmdisk_uuid: str) -> None:
        """The device dies as if pulled: gone from sysfs, every further read fails; its bytes are lost.

        The cluster may go on believing in it; ``unplug`` cleans up as usual.
        """
        with self._lock:
            plug = self._plugs[vmdisk_uuid]
            os.truncate(plug.path, 0)
            identity.hide(self.root, plug.name)

    def resized(self, vmdisk_uuid: str) -> None:
        """Take over the grown size of a plugged disk's file."""
        with self._lock:
            plug = self._plugs[vmdisk_uuid]
            if plug.loop_number is not None:
                loops.resize(self._loop(plug))
            if plug.is_shown:
                size = self._facts(plug).size_bytes // 512
                (self.root / "sys/block" / plug.name / "size").write_text(f"{size}\n")

    def decoy_untouched(self, vmdisk_uuid: str) -> bool:
        """Whether the decoy that appeared beside this disk still has its bytes and its holes."""
        path, digest = self._decoys[vmdisk_uuid]
        return decoy.digest_of(path) == digest

    def close(self) -> None:
        """Free all devices; what was plugged is remembered for the next start. Idempotent."""
        with self._lock:
            remembered = dict(self._plugs)
            for plug in remembered.values():
                self._release(plug)
            self._plugs.clear()
            self._leaving = [number for number in self._leaving if not loops.remove(number)]

    # --- making and unmaking ----------------------------------------------------------

    def _made(self, plug: Plug) -> Plug:
        """The device behind a plug, not yet shown."""
        self._remember(plug)
        node = self.root / "dev" / plug.name
        self._sequence += 1
        if not self._use_loop:
            if plug.faults.needs_bad_file:
                raise LabError("read errors need real devices", remedy="Run the lab as root, or arm another fault.")
            node.unlink(missing_ok=True)
            node.symlink_to(self._shortened(plug))
            return replace(plug, diskseq=self._sequence, sector_bytes=plug.faults.sector_bytes or 512)
        size = plug.path.stat().st_size
        sector = plug.faults.sector_bytes or (4096 if self._bank.has_reflink and size % 4096 == 0 else 512)
        if sector == 512 and self._bank.has_reflink:
            self._bank.unshare(plug.path)
        limit = size - plug.faults.missing_bytes if plug.faults.missing_bytes else 0
        loop = loops.attach(
            self._backing(plug),
            node,
            sector_bytes=sector,
            limit_bytes=limit,
            # The proof reads; on a bad file that may fail, and counts.
            is_strict=not plug.faults.needs_bad_file,
        )
        return replace(plug, loop_number=loop.number, sector_bytes=sector, diskseq=int(loop.fact("diskseq")))

    def _backing(self, plug: Plug) -> Path:
        if not plug.faults.needs_bad_file:
            return plug.path
        bad = badfile.BadFile(
            plug.path,
            self.root / ".bad" / plug.vmdisk_uuid,
            bad_ranges=plug.faults.bad_ranges,
            vanish_after_bytes=plug.faults.vanish_after_bytes,
        )
        self._bad_files[plug.vmdisk_uuid] = bad
        return bad.path

    def _shortened(self, plug: Plug) -> Path:
        if not plug.faults.missing_bytes:
            return plug.path
        short = plug.path.with_suffix(".short")
        short.unlink(missing_ok=True)
        extents.copy_sparse(plug.path, short)
        os.truncate(short, short.stat().st_size - plug.faults.missing_bytes)
        return short

    def _plug_decoy(self, size_bytes: int, vmdisk_uuid: str, slot_index: int) -> None:
        decoy_uuid = derived_uuid(vmdisk_uuid, "decoy")
        path = self._bank.root / f"decoy-{decoy_uuid}.raw"
        decoy.make(path, size_bytes, decoy_uuid)
        self._decoys[vmdisk_uuid] = (path, decoy.digest_of(path))
        plug = Plug(decoy_uuid, self._free_name(), path, slot_index + 1, decoy_of=vmdisk_uuid)
        self._remember(self._made(plug))
        self.appear(decoy_uuid)

    def _release(self, plug: Plug) -> None:
        """Free what the kernel holds for a plug; a loop that is still open somewhere goes later."""
        if timer := self._timers.pop(plug.vmdisk_uuid, None):
            timer.cancel()
        identity.hide(self.root, plug.name)
        self._leaving = [number for number in self._leaving if not loops.remove(number)]
        if plug.loop_number is not None and not loops.release(plug.loop_number, patience_s=0.2):
            self._leaving.append(plug.loop_number)
        if bad := self._bad_files.pop(plug.vmdisk_uuid, None):
            bad.close()
        short = plug.path.with_suffix(".short")
        if short.exists():
            os.truncate(short, 0)
            short.unlink()

    def _loop(self, plug: Plug) -> loops.Loop:
        assert plug.loop_number is not None
        return loops.Loop(plug.loop_number, self.root / "dev" / plug.name, plug.sector_bytes)

    def _facts(self, plug: Plug) -> BlockFacts:
        if plug.loop_number is None:
            size = (self.root / "dev" / plug.name).stat().st_size
            return BlockFacts("0:0", size, plug.sector_bytes, plug.diskseq, plug.slot_index)
        loop = self._loop(plug)
        size = int(loop.fact("size")) * 512
        return BlockFacts(loop.fact("dev"), size, plug.sector_bytes, plug.diskseq, plug.slot_index)

    def _identity(self, plug: Plug) -> Identity:
        said = derived_uuid(plug.vmdisk_uuid, "wrong") if plug.faults.wrong_serial else plug.vmdisk_uuid
        return Identity.of(said, plug.faults.spelling)

    def _free_name(self) -> str:
        taken = {plug.name for plug in self._plugs.values()}
        return next(name for name in identity.letters(self._seed) if name not in taken)

    # --- memory -----------------------------------------------------------------------

    @property
    def _state_file(self) -> Path:
        return self.root / ".hotplug.json"

    def _remember(self, plug: Plug) -> None:
        self._plugs[plug.vmdisk_uuid] = plug
        self._save()

    def _save(self) -> None:
        rows = [{**asdict(plug), "path": str(plug.path)} for plug in self._plugs.values()]
        decoys = {uuid: [str(path), digest] for uuid, (path, digest) in self._decoys.items()}
        fresh = self._state_file.with_suffix(".new")
        fresh.write_text(json.dumps({"sequence": self._sequence, "plugs": rows, "decoys": decoys}))
        fresh.replace(self._state_file)

    def _restore(self) -> None:
        """After a stop or a kill: keep the loops that are still right, re-make the others, free strangers."""
        state = json.loads(self._state_file.read_text()) if self._state_file.exists() else {}
        self._sequence = state.get("sequence", 0)
        self._decoys = {uuid: (Path(path), digest) for uuid, (path, digest) in state.get("decoys", {}).items()}
        known = [plug for plug in map(plug_of, state.get("plugs", [])) if plug.path.exists()]
        kept = {plug.loop_number for plug in known if self._is_alive(plug)}
        if self._use_loop:
            for number in {*loops.below(self._bank.root), *loops.below(self.root)} - kept:
                loops.release(number)
        for name in os.listdir(self.root / "sys/block"):
            if name not in {plug.name for plug in known if plug.loop_number in kept}:
                identity.hide(self.root, name)
        for plug in known:
            if plug.loop_number in kept:
                self._remember(plug)
            else:
                self._remember(self._made(replace(plug, loop_number=None, is_shown=False)))
            if not plug.faults.never:
                self.appear(plug.vmdisk_uuid)
        self._save()

    def _is_alive(self, plug: Plug) -> bool:
        if not self._use_loop or plug.loop_number is None or plug.faults.needs_bad_file:
            return False
        is_visible = (self.root / "sys/block" / plug.name).exists()
        has_node = (self.root / "dev" / plug.name).exists()
        is_whole = has_node and (is_visible or not plug.is_shown)
        return is_whole and loops.backing_of(plug.loop_number) == str(plug.path)


def _need_direct_io(folder: Path) -> None:
    file = folder / ".direct-probe"
    try:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600))
    except OSError as failure:
        raise LabError(
            f"no direct I/O in {folder}: {failure.strerror}",
            remedy="Put the lab's folder on ext4, XFS or btrfs, not on tmpfs or a network share.",
        ) from failure
    finally:
        file.unlink(missing_ok=True)
