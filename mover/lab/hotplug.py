"""Plugs disks of the bank into a folder that looks like the kernel's of the Proxy VM.

As root each is a loop device with direct I/O; otherwise the file itself, by a symlink.
What is plugged is remembered: a new Hotplug on the same folder keeps or re-makes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mover.errors import LabError
from mover.lab import badfile, extents, identity, loops
from mover.lab.disks import DiskBank
from mover.lab.identity import BlockFacts, Identity


@dataclass(frozen=True, slots=True)
class PlugFaults:
    """What is wrong with one plugged disk; the default is nothing."""

    late_s: float = 0.0
    """Appears only after so many seconds (or at ``Hotplug.appear``)."""
    never: bool = False
    wrong_serial: bool = False
    """Identity of another vmdisk."""
    missing_bytes: int = 0
    """The device is so much smaller than its disk."""
    decoy: bool = False
    """A second device of the same size with another serial appears beside it, first."""
    bad_ranges: tuple[tuple[int, int], ...] = ()
    """(offset, length) where reads and writes give EIO; as root only."""
    vanish_after_bytes: int = 0
    """When more than so much was read, the device is gone: EIO everywhere; as root only."""
    sector_bytes: int = 0
    """512 or 4096; 0 = what the disk's file allows (4096 on clones that share extents)."""
    spelling: str = "underscore"
    """How the UUID is written in the serial: underscore, dash, colon."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> PlugFaults:
        """From JSON. Raises LabError on an unknown name."""
        unknown = set(values) - {one.name for one in fields(cls)}
        if unknown:
            raise LabError(
                f"no such device fault: {', '.join(sorted(unknown))}",
                remedy=f"Known are {', '.join(one.name for one in fields(cls))}.",
            )
        ranges = tuple((int(offset), int(length)) for offset, length in values.get("bad_ranges", ()))
        return cls(**{**values, "bad_ranges": ranges})

    @property
    def needs_bad_file(self) -> bool:
        return bool(self.bad_ranges) or self.vanish_after_bytes > 0


@dataclass(frozen=True, slots=True)
class Plug:
    """One plugged disk as it is remembered."""

    vmdisk_uuid: str
    name: str
    path: Path
    slot_index: int
    faults: PlugFaults = field(default_factory=PlugFaults)
    loop_number: int | None = None
    sector_bytes: int = 512
    diskseq: int = 0
    is_shown: bool = False
    decoy_of: str | None = None


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
        reason = loops.usable() if use_loop is None else None if use_loop else "as asked"
        self._use_loop = reason is None
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
            if faults.decoy:
                self._plug_decoy(path.stat().st_size, vmdisk_uuid, slot_index)
            plug = Plug(vmdisk_uuid, self._free_name(), path, slot_index, faults)
            try:
                self._remember(self._made(plug))
            except BaseException:
                self.unplug(vmdisk_uuid, destroy=False)
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

    def unplug(self, vmdisk_uuid: str, *, destroy: bool = True) -> None:
        """Take the device away, its decoy too. Idempotent.

        destroy: the disk is deleted with it, as detach does, so whoever still reads gets
        errors from now on (the file is cut to nothing). False: only the device goes.
        """
        with self._lock:
            for plug in [one for one in self._plugs.values() if vmdisk_uuid in (one.vmdisk_uuid, one.decoy_of)]:
                is_free = self._release(plug)
                if destroy and plug.decoy_of is None and plug.path.exists() and not (is_free and self._use_loop):
                    os.truncate(plug.path, 0)
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
        return _digest(path) == digest

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
        loop = loops.attach(self._backing(plug), node, sector_bytes=sector, limit_bytes=limit)
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
        decoy_uuid = _derived_uuid(vmdisk_uuid, "decoy")
        path = self._bank.root / f"decoy-{decoy_uuid}.raw"
        _make_decoy(path, size_bytes, decoy_uuid)
        self._decoys[vmdisk_uuid] = (path, _digest(path))
        plug = Plug(decoy_uuid, self._free_name(), path, slot_index + 1, decoy_of=vmdisk_uuid)
        self._remember(self._made(plug))
        self.appear(decoy_uuid)

    def _release(self, plug: Plug) -> bool:
        """Free what the kernel holds for a plug; False when the loop is still open somewhere."""
        if timer := self._timers.pop(plug.vmdisk_uuid, None):
            timer.cancel()
        identity.hide(self.root, plug.name)
        self._leaving = [number for number in self._leaving if not loops.remove(number)]
        is_free = plug.loop_number is None or loops.release(plug.loop_number, patience_s=0.2)
        if plug.loop_number is not None and not is_free:
            self._leaving.append(plug.loop_number)
        if bad := self._bad_files.pop(plug.vmdisk_uuid, None):
            bad.close()
        short = plug.path.with_suffix(".short")
        if short.exists():
            os.truncate(short, 0)
            short.unlink()
        return is_free

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
        said = _derived_uuid(plug.vmdisk_uuid, "wrong") if plug.faults.wrong_serial else plug.vmdisk_uuid
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
        known = [_plug_of(row) for row in state.get("plugs", [])]
        kept = {plug.loop_number for plug in known if self._is_alive(plug)}
        if self._use_loop:
            for number in loops.below(self._bank.root) + loops.below(self.root):
                if number not in kept:
                    loops.release(number)
        for plug in known:
            if plug.loop_number not in kept:
                identity.hide(self.root, plug.name)
            if not plug.path.exists():
                continue
            self._remember(plug if plug.loop_number in kept else self._made(replace(plug, loop_number=None)))
            if not plug.faults.never and not (plug.is_shown and plug.loop_number in kept):
                self._plugs[plug.vmdisk_uuid] = replace(self._plugs[plug.vmdisk_uuid], is_shown=False)
                self.appear(plug.vmdisk_uuid)
        self._save()

    def _is_alive(self, plug: Plug) -> bool:
        if plug.loop_number is None or plug.faults.needs_bad_file:
            return False
        return loops.backing_of(plug.loop_number) == str(plug.path)


def _plug_of(row: dict[str, Any]) -> Plug:
    return Plug(**{**row, "path": Path(row["path"]), "faults": PlugFaults.of(row["faults"])})


def _derived_uuid(vmdisk_uuid: str, purpose: str) -> str:
    text = hashlib.blake2b(f"{purpose}:{vmdisk_uuid}".encode(), digest_size=16).hexdigest()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _make_decoy(path: Path, size_bytes: int, decoy_uuid: str) -> None:
    """Patterned at 64 places all over the disk, sparse between."""
    path.unlink(missing_ok=True)
    with open(path, "xb") as file:
        file.truncate(size_bytes)
        step = max(4096, size_bytes // 64 // 4096 * 4096)
        for offset in range(0, size_bytes - 4095, step):
            file.seek(offset)
            file.write(f"DECOY {decoy_uuid} {offset:016x}\n".encode().ljust(64, b"#") * 64)


def _digest(path: Path) -> str:
    """Of the allocated spans and their bytes: even zeroes written into a hole change it."""
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        for start, end in extents.data_spans(descriptor):
            digest.update(f"{start}-{end}:".encode())
            for offset in range(start, end, 1 << 20):
                digest.update(os.pread(descriptor, min(1 << 20, end - offset), offset))
    finally:
        os.close(descriptor)
    return digest.hexdigest()
