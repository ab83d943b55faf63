"""The disks of the lab: sparse raw files that are created, cloned, frozen and compared.

As root on a reflink file system of their own (XFS in one sparse file, mounted below the
lab's folder), where a clone is a clone; elsewhere in a plain folder, by reflink if it
can and else by sparse copies. Frozen files never change.
"""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

from mover.errors import LabError
from mover.lab import extents, loops, tools
from mover.lab.extents import Row
from mover.units import GIB

_ANSWERS = 8
"""Lists kept for paging: about as many as disks are asked about side by side."""
IMAGE_BYTES = 64 * GIB
"""Sparse: what the bank could ever hold. Space is given back by discard."""

_MKFS_OPTIONS = ("-q", "-f", "-m", "reflink=1", "-s", "size=512")


def folder_unusable(folder: Path, failure: OSError) -> LabError:
    """It is a file, cannot be made, or is another user's."""
    return LabError(f"the lab cannot use {folder}: {failure.strerror}", remedy="Choose a folder that you may write.")


class DiskBank:
    """All files of one lab. Not for two processes at a time: the second gets a LabError.

    ``how`` says in words what the disks are made of, ``has_reflink`` whether clones share
    extents (their loop devices then have 4096-byte sectors).
    """

    def __init__(self, folder: Path, *, use_loop: bool | None = None, image_bytes: int = IMAGE_BYTES) -> None:
        self.folder = folder.resolve()
        self.root = self.folder / "bank"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.root.mkdir(mode=0o700, exist_ok=True)
            self._lock: int | None = _locked(self.folder)
        except OSError as failure:
            raise folder_unusable(self.folder, failure) from failure
        self._answers: dict[tuple[Path, Path | None], list[Row]] = {}
        self._answers_lock = threading.Lock()
        self._is_mounted = False
        try:
            self.how = self._prepare(use_loop, image_bytes)
            for name in ("live", "frozen"):
                (self.root / name).mkdir(exist_ok=True)
            self.has_reflink = self._try_reflink()
        except BaseException:
            self.close()
            raise

    def _prepare(self, use_loop: bool | None, image_bytes: int) -> str:
        if loops.usable() is None:
            self._end_old_mounts()
        if use_loop is False or ((self.root / "live").exists() and not self._image.exists()):
            return "plain files"
        reason = loops.usable() or (None if tools.find("mkfs.xfs") else "mkfs.xfs is missing")
        if reason is None:
            try:
                self._mount(image_bytes)
            except LabError as failure:
                reason = failure.message
            except OSError as failure:
                reason = f"loop device: {failure.strerror}"
            else:
                return "reflinks on an own XFS"
        if use_loop or self._image.exists():
            raise LabError(
                f"the lab's disks in {self.folder} need a loop device: {reason}",
                remedy="Run as root with mkfs.xfs installed, or use a new folder for a lab of plain files.",
            )
        return f"plain files ({reason})"

    @property
    def _image(self) -> Path:
        return self.folder / "bank.xfs"

    def _mount(self, image_bytes: int) -> None:
        """Take over the mount of a killed lab, or mount (and make) the image."""
        if self.root in loops.mounts_below(self.folder):
            self._is_mounted = True
            return
        for number in loops.below(self.folder):
            if loops.backing_of(number) == str(self._image):
                loops.release(number)
        is_new = not self._image.exists()
        if is_new:
            _make_image(self._image, image_bytes)
        node = self.folder / "bank.node"
        try:
            loop = loops.attach(self._image, node, sector_bytes=512, is_strict=False)
            try:
                loops.mount(node, self.root, "xfs", options="discard")
            except BaseException:
                loops.release(loop.number)
                raise
            self._is_mounted = True
            loops.set_autoclear(loop)
        except (LabError, OSError):
            # What never was mounted holds nothing; left behind it would forbid a plain bank.
            if is_new and not self._is_mounted:
                self._image.unlink()
            raise
        finally:
            node.unlink(missing_ok=True)

    def _end_old_mounts(self) -> None:
        """What a killed lab had mounted besides the bank; devices of the bank's files stay for Hotplug."""
        for number in set(loops.below(self.folder)) - set(loops.below(self.root)):
            if loops.backing_of(number) != str(self._image):
                loops.release(number)
        for place in loops.mounts_below(self.folder):
            if place != self.root:
                loops.unmount(place)

    def _try_reflink(self) -> bool:
        first, second = self.root / "probe-a", self.root / "probe-b"
        try:
            first.write_bytes(b"reflink?" * 512)
            return extents.reflink(first, second)
        finally:
            first.unlink(missing_ok=True)
            second.unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount and free all loop devices of the bank; the files stay. Idempotent. Close Hotplug first."""
        if self._is_mounted:
            self._is_mounted = False
            # Devices that nobody unplugged would keep the file system alive out of sight.
            for number in loops.below(self.root):
                loops.release(number)
            own = loops.below(self.folder)
            loops.unmount(self.root)
            for number in own:
                _free_own(number, self._image)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # --- live disks -------------------------------------------------------------------

    def path(self, vmdisk_uuid: str) -> Path:
        """The live file of a vmdisk, existing or not."""
        return self.root / "live" / f"{vmdisk_uuid}.raw"

    def create(self, vmdisk_uuid: str, size_bytes: int) -> Path:
        """A new disk, all zero, that occupies nothing."""
        path = self.path(vmdisk_uuid)
        with open(path, "xb") as file:
            file.truncate(size_bytes)
        return path

    def clone(self, source: Path, vmdisk_uuid: str) -> Path:
        """A new live disk with the bytes of a live or frozen one; independent from now on."""
        return self._copied(source, self.path(vmdisk_uuid))

    def grow(self, vmdisk_uuid: str, size_bytes: int) -> None:
        """Make a live disk larger; the new end is zero. Tell Hotplug if it is plugged."""
        path = self.path(vmdisk_uuid)
        if size_bytes < path.stat().st_size:
            raise ValueError(f"{path.name} cannot shrink to {size_bytes} bytes")
        os.truncate(path, size_bytes)

    def unshare(self, path: Path) -> None:
        """Replace a file by one without shared extents (for 512-byte sectors); not while plugged."""
        fresh = path.with_suffix(".unshared")
        fresh.unlink(missing_ok=True)
        extents.copy_sparse(path, fresh)
        fresh.replace(path)

    def drop(self, path: Path) -> None:
        """Delete a live or frozen file. Whoever still has the live one open reads errors. Idempotent."""
        if path.parent == self.root / "live" and path.exists():
            # An unlinked file would live on under its readers: a deleted disk does not.
            os.truncate(path, 0)
        path.unlink(missing_ok=True)
        with self._answers_lock:
            for pair in [pair for pair in self._answers if path in pair]:
                del self._answers[pair]
        if path.parent.parent == self.root / "frozen" and path.parent.exists() and not any(path.parent.iterdir()):
            path.parent.rmdir()

    # --- frozen disks -----------------------------------------------------------------

    def frozen_path(self, vmdisk_uuid: str, snapshot_id: str) -> Path:
        """Where ``freeze`` puts a vmdisk."""
        return self.root / "frozen" / snapshot_id / f"{vmdisk_uuid}.raw"

    def freeze(self, vmdisk_uuid: str, snapshot_id: str) -> Path:
        """The bytes of a live disk as they are now, for ever; a second time the first result."""
        path = self.frozen_path(vmdisk_uuid, snapshot_id)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_suffix(".freezing")
            fresh.unlink(missing_ok=True)
            self._copied(self.path(vmdisk_uuid), fresh)
            fresh.chmod(0o400)
            fresh.replace(path)
        return path

    def allocation(self, path: Path) -> list[Row]:
        """The whole file as rows (offset, length, is_zero): allocated and sparse."""
        return self._answer(path, None)

    def difference(self, path: Path, base: Path) -> list[Row]:
        """Rows of what ``path`` has otherwise than ``base``, by bytes, in grains of 4 KiB."""
        return self._answer(path, base)

    def _answer(self, path: Path, base: Path | None) -> list[Row]:
        """Computed once for frozen files, since a client pages through it; not to be changed by callers."""
        frozen = self.root / "frozen"
        known = self._answers.get((path, base))
        if known is None:
            known = extents.allocation(path) if base is None else extents.difference(path, base)
            if all(one.is_relative_to(frozen) for one in (path, base) if one is not None):
                with self._answers_lock:
                    while len(self._answers) >= _ANSWERS:
                        del self._answers[next(iter(self._answers))]
                    self._answers[path, base] = known
        return known

    def _copied(self, source: Path, target: Path) -> Path:
        if not extents.reflink(source, target):
            extents.copy_sparse(source, target)
        target.chmod(0o600)
        return target


def _locked(folder: Path) -> int:
    """Hold the folder for this process."""
    descriptor = os.open(folder / "bank.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise LabError(
            f"another lab runs in {folder}", remedy="Stop it, or give this one a folder of its own."
        ) from None
    return descriptor


def _make_image(image: Path, size_bytes: int) -> None:
    fresh = image.with_suffix(".new")
    with open(fresh, "wb") as file:
        file.truncate(size_bytes)
    try:
        tools.run("mkfs.xfs", *_MKFS_OPTIONS, str(fresh))
    except LabError:
        fresh.unlink()
        raise
    fresh.replace(image)


def _free_own(number: int, image: Path) -> bool:
    """After the unmount, which detaches the bank's loop unless a kill came before it was told to."""
    return loops.release(number) if loops.backing_of(number) == str(image) else loops.remove(number)


def clean(folder: Path) -> list[str]:
    """Free what a killed lab left in the kernel: devices first, then mounts, then the bank's own.

    Files stay. Returns what was done, in words; refuses with LabError while a lab runs there.
    """
    if not folder.exists():
        return []
    folder = folder.resolve()
    lock = _locked(folder)
    try:
        done = []
        if loops.usable() is None:
            image = folder / "bank.xfs"
            numbers = loops.below(folder)
            # A device that is mounted goes with its mount, the bank's own as the last.
            busy = [number for number in numbers if loops.backing_of(number) == str(image) or not loops.release(number)]
            for place in loops.mounts_below(folder):
                loops.unmount(place)
                done.append(f"unmounted {place}")
            left = [number for number in busy if not _free_own(number, image)]
            done += [f"freed /dev/loop{number}" for number in numbers if number not in left]
        return done
    finally:
        os.close(lock)
