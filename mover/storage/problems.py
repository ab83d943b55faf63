"""What went wrong with a store or an object of it, in words, with what to do about it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

from mover.errors import ObjectExists, ObjectMissing, StorageError, StoreDenied, StoreFull, StoreUnreachable
from mover.storage.mounts import read_mount

_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM}
_GONE = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ESTALE,
    errno.ENODEV,
    errno.ENXIO,
    errno.ENOTCONN,
    errno.ESHUTDOWN,
}
_SILENT = {
    errno.EIO,
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ECONNRESET,
    errno.ECONNREFUSED,
    errno.EAGAIN,
    errno.EBUSY,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
}


def store_error(error: OSError, *, folder: Path, doing: str) -> StorageError:
    """The error to raise in place of ``error``, met while ``doing`` (``"writing packs/00/ab"``) in ``folder``."""
    number = error.errno or 0
    said = os.strerror(number) if number else str(error)
    what = f"{doing} in {folder} failed: {said}"
    facts: dict[str, Any] = {"folder": str(folder), "errno": errno.errorcode.get(number, str(number))}
    if number in _FULL:
        remedy = f"Make room on the file system of {folder} (df -h, df -i, quota), then run the same command again."
        return StoreFull(what, remedy=remedy, **facts)
    if number == errno.EROFS:
        remedy = (
            f"Remount the file system of {folder} read-write, or choose another folder. Where only the daemon may not "
            "write: if the folder is younger than its start, systemctl restart mover; else its unit lacks "
            "deploy/systemd/mover.service.d/repository-folder.conf.example."
        )
        return StoreDenied(what, remedy=remedy, **facts)
    if number in _DENIED:
        facts |= _owner(folder)
        return StoreDenied(what, remedy=_rights_remedy(folder), **facts)
    if number in _GONE:
        remedy = f"Check that the file system of {folder} is mounted (findmnt -T {folder}), then run again."
        return StoreUnreachable(what, remedy=remedy, **facts)
    if number in _SILENT:
        remedy = f"Check the disk or the file server behind {folder} (dmesg, findmnt -T {folder}), then run again."
        return StoreUnreachable(what, remedy=remedy, **facts)
    return StorageError(what, remedy=f"Check the file system of {folder}, or choose another folder.", **facts)


def _rights_remedy(folder: Path) -> str:
    """Root is refused where its rights are taken for nobody's: by an NFS server, or without a capability."""
    usual = f"Give the user of mover the right to read and write below {folder} (ls -ld, chown, SELinux)."
    if os.geteuid() != 0:
        return usual
    mount = read_mount(folder)
    if mount is not None and mount.kind in ("nfs", "nfs4"):
        return (
            f"The NFS server takes this node's root for nobody (root_squash): chown {folder} there to the user that it "
            "puts in root's place (anonuid, usually 65534), or export it with no_root_squash to the nodes alone."
        )
    return f"{usual} A root without CAP_DAC_OVERRIDE (a container, a unit) has the rights of user 0 alone: chown 0."


def _owner(folder: Path) -> dict[str, str]:
    """Whose the folder is and as whom we came, where it can be asked."""
    try:
        seen = folder.stat()
    except OSError:
        return {}
    return {
        "folder_of": f"user {seen.st_uid}, group {seen.st_gid}, mode {stat.S_IMODE(seen.st_mode):o}",
        "running_as": f"user {os.geteuid()}, group {os.getegid()}",
    }


def folder_gone(folder: Path, *, retryable: bool = True) -> StoreUnreachable:
    """The repository's own folder is not there (any more). retryable: it was, a moment ago."""
    new = "" if retryable else " A new repository is made there by: mover init"
    return StoreUnreachable(
        f"The folder {folder} of the store does not exist",
        remedy=f"Mount its file system, or correct the path {folder}.{new}",
        retryable=retryable,
        folder=str(folder),
    )


def object_missing(name: str, store: str) -> ObjectMissing:
    """An object that was asked for is not there."""
    return ObjectMissing(
        f"The object {name} is not in {store}",
        remedy="Check the address of the repository; run mover verify to learn which restore points need the object.",
        object=name,
    )


def object_exists(name: str, store: str) -> ObjectExists:
    """A create-only put met other bytes."""
    return ObjectExists(
        f"The object {name} is already in {store}, with other content",
        remedy="Another writer used this name; nothing was overwritten. Start the operation again.",
        object=name,
    )


def object_short(name: str, *, wanted_end: int, found_end: int) -> StorageError:
    """A ranged get went beyond the end of the object."""
    return StorageError(
        f"The object {name} ends at byte {found_end}; bytes up to {wanted_end} were asked for",
        remedy="The object was cut short; run mover verify to learn which restore points need it.",
        object=name,
        wanted_end=wanted_end,
        found_end=found_end,
    )


def out_of_order(name: str, before: str, store: str) -> StorageError:
    """A listing came in another order than by name: who continues one would leave objects out."""
    return StorageError(
        f"{store} lists {name} after {before}: not in the order of names",
        remedy="Give the repository a prefix of its own; if it has one, choose a store that lists in order.",
        object=name,
    )
