"""Run a piece of a test as a lesser process: another user, few capabilities, a control group, a namespace."""

from __future__ import annotations

import ctypes
import os
import pickle
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SYS_ADMIN, MKNOD = 21, 27
_VERSION = 0x20080522
_PR_SET_KEEPCAPS = 8
_CLONE_NEWUSER = 0x10000000
_DEVICES = Path("/sys/fs/cgroup/devices")
_LIBC = ctypes.CDLL(None, use_errno=True)


def lesser(
    work: Callable[[], Any],
    *,
    user: int = 0,
    groups: Iterable[int] = (),
    capabilities: Iterable[int] | None = (),
    group: Path | None = None,
    in_user_namespace: bool = False,
) -> Any:
    """What ``work`` gives in a child with exactly these rights, or the exception that it raises.

    capabilities: None keeps all that root has here.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            if group is not None:
                (group / "cgroup.procs").write_text(str(os.getpid()))
            if in_user_namespace:
                _enter_user_namespace()
            elif capabilities is not None:
                _drop(user, list(groups), sum(1 << number for number in capabilities))
            answer = (True, work())
        except BaseException as error:
            answer = (False, error)
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump(answer, pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        is_good, value = pickle.load(pipe)
    os.waitpid(child, 0)
    if not is_good:
        raise value
    return value


def _enter_user_namespace() -> None:
    _checked(_LIBC.unshare(_CLONE_NEWUSER))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text("0 0 1")


def _drop(user: int, groups: list[int], mask: int) -> None:
    os.setgroups(groups)
    _checked(_LIBC.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0))
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = struct.pack("<6I", low, low, 0, high, high, 0)
    _checked(_LIBC.capset(struct.pack("<Ii", _VERSION, 0), data))


def _checked(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def no_device_groups() -> str | None:
    """Why no control group of devices can be made here; None where it can."""
    if os.geteuid() != 0:
        return "not root"
    if not (_DEVICES / "devices.deny").exists() and not (_DEVICES / "devices.list").exists():
        return "no version 1 control group of devices (version 2 needs a BPF program)"
    return None


@contextmanager
def device_group(*allowed: str) -> Iterator[Path]:
    """A control group whose processes may use only these devices, such as ``c *:* rwm``."""
    folder = _DEVICES / f"mover-test-{os.getpid()}"
    folder.mkdir()
    try:
        (folder / "devices.deny").write_text("a")
        for rule in allowed:
            (folder / "devices.allow").write_text(rule)
        yield folder
    finally:
        folder.rmdir()
