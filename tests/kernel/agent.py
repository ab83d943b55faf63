"""The only process of the guest: does what it is told over a serial line, with mover's own device code on "/".

Requests and answers are JSON, one a line: {"verb": name, arguments …} → {"value": …}, {"refused": …} or {"broken": …}.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import json
import mmap
import os
import struct
import threading
import traceback
import tty
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mover.clock import SystemClock
from mover.config import NodeSettings
from mover.device import inquiry, ioctl, sysfs
from mover.device.direct import DirectDevice
from mover.device.locate import Locator
from mover.device.smbios import own_identity
from mover.errors import DeviceFault, MoverError
from mover.model.machine import Attachment, Slot

_ROOT = Path("/")
_LIBC = ctypes.CDLL(None, use_errno=True)
_INIT_MODULE = 175
_CLONE_NEWNS = 0x20000
_MS_PRIVATE_BELOW = (1 << 18) | (1 << 14)
_READ_BYTES = 1 << 20
_DM_HEADER = struct.Struct("<5IIi3IQ128s129s7s")
_DM_CREATE, _DM_REMOVE, _DM_RESUME, _DM_LOAD = 3, 4, 6, 9
_NOBODY = 65534


def main() -> None:
    """As the kernel's first process."""
    for kind, place in (("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp")):
        _mount(kind, place, kind)
    for module in sorted(Path("/modules").iterdir()):
        image = module.read_bytes()
        _checked(_LIBC.syscall(_INIT_MODULE, image, ctypes.c_ulong(len(image)), b""), str(module))
    line = os.open("/dev/ttyS1", os.O_RDWR | os.O_NOCTTY)
    tty.setraw(line)
    with (
        open(line, "rb", closefd=False) as requests,
        open(line, "wb", buffering=0) as answers,
        asyncio.Runner() as loop,
    ):
        agent = Agent(loop)
        answers.write(b'"ready"\n')
        for request in requests:
            answers.write(json.dumps(_answer(agent, json.loads(request))).encode() + b"\n")


def _answer(agent: Agent, request: dict[str, Any]) -> dict[str, Any]:
    work: Callable[..., Any] = getattr(agent, request.pop("verb"))
    try:
        return {"value": work(**request)}
    except MoverError as refusal:
        return {"refused": {"kind": type(refusal).__name__, "message": str(refusal), "facts": refusal.facts}}
    except Exception:  # the first process of a guest must not end: the test outside raises what it is told
        return {"broken": traceback.format_exc()}


class Agent:
    """One method a verb. Devices are known by the numbers that ``locate`` gave them."""

    def __init__(self, loop: asyncio.Runner) -> None:
        self._loop = loop
        self._locators: dict[bool, Locator] = {}
        self._devices: list[DirectDevice] = []
        self._strangers: dict[str, int] = {}
        self._before = frozenset()
        self._reader: threading.Thread | None = None
        self._fault: DeviceFault | None = None
        self._reads = threading.Condition()
        self._read_count = 0

    # --- what the kernel shows --------------------------------------------------------

    def machine(self) -> Any:
        return own_identity(_ROOT)

    def disks(self) -> dict[str, Any]:
        """Name → what ``sysfs`` makes of it, and the files themselves."""
        return {disk.name: {**asdict(disk), "files": _files(disk.name)} for disk in sysfs.disks(_ROOT)}

    def left(self) -> dict[str, Any]:
        """Everything that a disk leaves in the kernel or in this process."""
        descriptors = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
        return {
            "disks": [disk.name for disk in sysfs.disks(_ROOT)],
            "scsi": sorted(os.listdir("/sys/class/scsi_device")),
            "nodes": sorted(node for node in os.listdir("/dev") if node.startswith("sd")),
            "open": [place for place in descriptors if place.startswith("/dev/sd")],
            "held": sum(len(locator._opening.held) for locator in self._locators.values()),
        }

    def forget_all(self) -> dict[str, Any]:
        """Close what is open and have the kernel drop every disk; what is left all the same."""
        for device in self._devices:
            device.close()
        for name in list(self._strangers):
            self.close_as_stranger(name)
        for disk in sysfs.disks(_ROOT):
            with suppress(OSError):  # pulled, and the kernel is about to do the same
                (Path("/sys/block") / disk.name / "device/delete").write_text("1")
        return self.left()

    # --- the device code --------------------------------------------------------------

    def remember(self) -> None:
        """What is there before an attach."""
        self._before = self._locator(trust_slot=True).census()

    def locate(
        self,
        vmdisk_uuid: str,
        size_bytes: int,
        slot: int,
        writable: bool = False,
        trust_slot: bool = False,
        timeout_s: float = 30.0,
    ) -> dict[str, Any]:
        locator = self._locator(trust_slot=trust_slot, timeout_s=timeout_s)
        attachment = Attachment("proxy", Slot("scsi", slot), vmdisk_uuid, "device", size_bytes)
        before = self._before if trust_slot else None
        device = self._loop.run(locator.locate(attachment, writable=writable, before=before))
        self._devices.append(device)
        return {
            "device": len(self._devices) - 1,
            "name": os.path.basename(device.name.split()[1]),
            "size_bytes": device.size_bytes,
            "sector_bytes": device.sector_bytes,
            "is_direct": device.is_direct,
            "is_read_only": ioctl.is_read_only(device._fd),
        }

    def read(self, device: int, offset_bytes: int, length_bytes: int) -> str:
        with mmap.mmap(-1, length_bytes) as page, memoryview(page) as view:
            self._devices[device].read_into(view, offset_bytes)
            return bytes(view).hex()

    def write(self, device: int, offset_bytes: int, content: str) -> None:
        with mmap.mmap(-1, len(content) // 2) as page, memoryview(page) as view:
            view[:] = bytes.fromhex(content)
            self._devices[device].write_from(view, offset_bytes)
            self._devices[device].flush()

    def release(self, device: int) -> None:
        self._devices[device].release()

    def close(self, device: int) -> None:
        self._devices[device].close()

    def begin_reading(self, device: int) -> None:
        """Read it from end to end in a thread, again and again, until that fails; returns once it reads."""
        self._fault, self._read_count = None, 0
        self._reader = threading.Thread(target=self._read_on, args=(self._devices[device],))
        self._reader.start()
        with self._reads:
            assert self._reads.wait_for(lambda: self._read_count > 0, timeout=60)

    def end_of_reading(self) -> dict[str, Any]:
        """The fault that ended it."""
        assert self._reader is not None
        self._reader.join(60)
        assert self._fault is not None
        return {"message": str(self._fault), "remedy": self._fault.remedy, **self._fault.facts}

    def _read_on(self, device: DirectDevice) -> None:
        with mmap.mmap(-1, _READ_BYTES) as page, memoryview(page) as view:
            while True:
                for offset in range(0, device.size_bytes, _READ_BYTES):
                    try:
                        device.read_into(view, offset)
                    except DeviceFault as fault:
                        self._fault = fault
                        return
                    with self._reads:
                        self._read_count += 1
                        self._reads.notify_all()

    def _locator(self, *, trust_slot: bool, timeout_s: float = 30.0) -> Locator:
        """One for each way of trust, since it remembers what it has open."""
        if trust_slot not in self._locators:
            settings = NodeSettings(trust_slot=trust_slot, device_timeout=timeout_s)
            self._locators[trust_slot] = Locator(settings, SystemClock())
        locator = self._locators[trust_slot]
        locator._settings = NodeSettings(trust_slot=trust_slot, device_timeout=timeout_s)
        return locator

    def ask_without_rights(self, device: int) -> list[str]:
        """What the open disk answers to a process of nobody's, without a capability."""
        answer, told = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setresuid(_NOBODY, _NOBODY, _NOBODY)
                os.write(told, json.dumps(inquiry.texts(self._devices[device]._fd)).encode())
            finally:
                os._exit(0)
        os.close(told)
        os.waitpid(child, 0)
        with open(answer, "rb") as text:
            said: list[str] = json.loads(text.read())
        return said

    def scan(self, slot: int) -> None:
        """Have the kernel look at one target of the silent host, which it numbers after the other."""
        Path("/sys/class/scsi_host/host1/scan").write_text(f"0 {slot} 0")

    # --- strangers on the node --------------------------------------------------------

    def open_as_stranger(self, name: str, writable: bool, exclusive: bool = False) -> str:
        """Open a disk as another program would: "" or the name of the error. It stays open."""
        flags = (os.O_RDWR if writable else os.O_RDONLY) | (os.O_EXCL if exclusive else 0)
        try:
            self._strangers[name] = os.open(f"/dev/{name}", flags | os.O_CLOEXEC)
        except OSError as error:
            return errno.errorcode[error.errno]
        return ""

    def write_as_stranger(self, name: str) -> str:
        """Write a sector through the descriptor of ``open_as_stranger``: "" or the name of the error."""
        try:
            os.pwrite(self._strangers[name], b"x" * 4096, 0)
            os.fsync(self._strangers[name])
        except OSError as error:
            return errno.errorcode[error.errno]
        return ""

    def sequence_of_stranger(self, name: str) -> int | None:
        return ioctl.disk_sequence(self._strangers[name])

    def close_as_stranger(self, name: str) -> None:
        os.close(self._strangers.pop(name))

    def mount(self, name: str) -> str:
        """Mount its ext4: "" or the name of the error."""
        try:
            _mount(f"/dev/{name}", "/mnt", "ext4")
        except OSError as error:
            return errno.errorcode[error.errno]
        return ""

    def unmount(self) -> None:
        _checked(_LIBC.umount2(b"/mnt", 0), "/mnt")

    def mount_out_of_sight(self, name: str) -> int:
        """Mount it in a mount namespace of another process; that one's id."""
        done, told = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                _checked(_LIBC.unshare(_CLONE_NEWNS), "unshare")
                _checked(_LIBC.mount(None, b"/", None, _MS_PRIVATE_BELOW, None), "/")
                _mount(f"/dev/{name}", "/mnt", "ext4")
                os.write(told, b"mounted")
                threading.Event().wait()
            finally:
                os._exit(1)
        os.close(told)
        with open(done, "rb") as answer:
            assert answer.read(7) == b"mounted"
        return child

    def map(self, number: str, size_bytes: int) -> None:
        """Lay a device of the device mapper over a disk, as LVM and multipath do."""
        table = struct.pack("<QQiI16s", 0, size_bytes // 512, 0, 0, b"linear") + f"{number} 0\0".encode().ljust(
            16, b"\0"
        )
        _device_mapper(_DM_CREATE)
        _device_mapper(_DM_LOAD, table)
        _device_mapper(_DM_RESUME)

    def unmap(self) -> None:
        _device_mapper(_DM_REMOVE)

    def end_process(self, process: int) -> None:
        os.kill(process, 9)
        os.waitpid(process, 0)


def _device_mapper(command: int, table: bytes = b"") -> None:
    """One request for the one device of ours: ``struct dm_ioctl``, then at most one target."""
    size = _DM_HEADER.size
    header = _DM_HEADER.pack(4, 0, 0, size + len(table), size, bool(table), 0, 0, 0, 0, 0, b"strange", b"", b"")
    with open("/dev/mapper/control", "rb+", buffering=0) as control:
        fcntl.ioctl(control, 3 << 30 | size << 16 | 0xFD << 8 | command, bytearray(header + table))


def _files(name: str) -> dict[str, str]:
    """Path below the disk's folder → content (hexadecimal), as far as it can be read."""
    folder = Path("/sys/block", name)
    found = {"address": (folder / "device").resolve().name.encode().hex()}
    names = ["dev", "size", "ro", "diskseq", "queue/logical_block_size", "wwid"]
    names += [f"device/{file}" for file in ("vendor", "model", "rev", "type", "wwid", "vpd_pg80", "vpd_pg83")]
    for file in names:
        try:
            found[file] = (folder / file).read_bytes().hex()
        except OSError:
            continue
    return found


def _mount(source: str, target: str, kind: str) -> None:
    _checked(_LIBC.mount(source.encode(), target.encode(), kind.encode(), 0, None), source)


def _checked(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
