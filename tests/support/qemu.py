"""A machine of its own, emulated: Debian's kernel, one program, and SCSI disks that are plugged while it runs.

Stands in for the Proxy VM where the kernel itself is asked. No root, no virtualisation of the processor.
"""

from __future__ import annotations

import json
import platform
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import initramfs
from tests.support.servers import dies_with_us
from tests.support.source import ROOT

KERNEL = ROOT / ".venv/kernel"
"""Where ``make kernel-test`` unpacks it."""
needs_qemu = [
    pytest.mark.kernel,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the kernel that is booted is one for x86_64"),
    pytest.mark.skipif(
        not (KERNEL / "vmlinuz").exists() or shutil.which("qemu-system-x86_64") is None or shutil.which("cpio") is None,
        reason="needs qemu-system-x86_64, cpio and an unpacked kernel: make kernel-test",
    ),
]
UUID = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"
MAC = "50:6b:8d:12:34:56"
ANNOUNCING, SILENT = "scsi0", "scsi1"
"""Two SCSI hosts: the second one tells nobody of what comes and goes."""
_MODULES = ("virtio_pci", "virtio_scsi", "sd_mod", "virtio_net", "dm_mod")
_ANSWER_S = 90.0
_COMMAND = (
    *("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "256", "-no-reboot"),
    *("-nodefaults", "-no-user-config", "-display", "none", "-uuid", UUID),
    *("-append", "console=ttyS0 quiet panic=-1"),
    *("-device", "virtio-scsi-pci,id=scsi0", "-device", "virtio-scsi-pci,id=scsi1,hotplug=off"),
    *("-netdev", "user,id=net0,restrict=on", "-device", f"virtio-net-pci,netdev=net0,mac={MAC},romfile="),
    *("-mon", "chardev=monitor,mode=control"),
)


class GuestRefused(Exception):
    """What ran in the guest raised one of mover's own errors: its class, code, message and facts."""

    def __init__(self, kind: str, message: str, facts: Mapping[str, Any]) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind, self.message, self.facts = kind, message, facts


class _Lines:
    """JSON values, one a line, over one end of a pair of sockets; ``other`` is for the child."""

    def __init__(self) -> None:
        self._socket, self.other = socket.socketpair()
        self._socket.settimeout(_ANSWER_S)
        self._stream = self._socket.makefile("rwb")

    def send(self, value: Any) -> None:
        self._stream.write(json.dumps(value).encode() + b"\n")
        self._stream.flush()

    def receive(self) -> Any:
        line = self._stream.readline()
        assert line, "the machine is gone"
        return json.loads(line)

    def close(self) -> None:
        self._stream.close()
        self._socket.close()


class Machine:
    """The running guest. Plugs are seen by its kernel at once, unless the host adapter is silent."""

    def __init__(self, monitor: _Lines, agent: _Lines) -> None:
        self._monitor, self._agent = monitor, agent
        self._plugged: dict[str, Path] = {}

    def ask(self, verb: str, **arguments: Any) -> Any:
        """Have the guest's program do something; its answer. Raises GuestRefused."""
        self._agent.send({"verb": verb, **arguments})
        answer = self._agent.receive()
        if refusal := answer.get("refused"):
            raise GuestRefused(refusal["kind"], refusal["message"], refusal["facts"])
        assert "broken" not in answer, answer["broken"]
        return answer["value"]

    def plug(
        self,
        file: Path,
        *,
        name: str,
        slot: int,
        adapter: str = ANNOUNCING,
        lun: int = 0,
        read_only: bool = False,
        **properties: Any,
    ) -> None:
        """Make the raw file a disk at that SCSI target. properties: of QEMU's scsi-hd."""
        self._do(
            "blockdev-add",
            **{"driver": "raw", "node-name": name, "read-only": read_only},
            file={"driver": "file", "filename": str(file), "locking": "off"},
        )
        self._plugged[name] = file
        place = {"bus": f"{adapter}.0", "channel": 0, "scsi-id": slot, "lun": lun}
        look = {"vendor": "NUTANIX", "product": "VDISK", "ver": "0", **properties}
        self._do("device_add", driver="scsi-hd", id=f"{name}-disk", drive=name, **place, **look)

    def unplug(self, name: str) -> None:
        """Pull it; whatever the guest is doing with it."""
        del self._plugged[name]
        self._do("device_del", id=f"{name}-disk", until="DEVICE_DELETED")
        self._do("blockdev-del", **{"node-name": name})

    def unplug_all(self) -> None:
        for name in list(self._plugged):
            self.unplug(name)

    def resize(self, name: str, size_bytes: int) -> None:
        self._do("block_resize", **{"node-name": name, "size": size_bytes})

    def _do(self, command: str, until: str = "return", **arguments: Any) -> None:
        """until: the event after which it is done."""
        self._monitor.send({"execute": command, "arguments": arguments})
        awaited = {"return", until}
        while awaited:
            answer = self._monitor.receive()
            assert "error" not in answer, f"{command} {arguments}: {answer}"
            about = answer.get("data", {}).get("device", arguments.get("id"))
            if about == arguments.get("id"):
                awaited.discard(answer.get("event", "return"))


@contextmanager
def machine(folder: Path, *, program: str) -> Iterator[Machine]:
    """Boot it with the module ``program`` as its only process, and take it away at the end."""
    archive, log = folder / "initramfs", folder / "console"
    initramfs.build(archive, program=program, kernel_modules=KERNEL / "modules", load=_MODULES)
    with closing(_Lines()) as monitor, closing(_Lines()) as agent:
        ends = monitor.other.fileno(), agent.other.fileno()
        command = [*_COMMAND, "-kernel", str(KERNEL / "vmlinuz"), "-initrd", str(archive)]
        for name, end in zip(("monitor", "agent"), ends, strict=True):
            command += ["-chardev", f"socket,id={name},fd={end}"]
        command += ["-serial", f"file:{log}", "-serial", "chardev:agent"]
        running = subprocess.Popen([*dies_with_us(), *command], stdin=subprocess.DEVNULL, pass_fds=ends)
        monitor.other.close()
        agent.other.close()
        try:
            monitor.receive()  # its greeting
            booted = Machine(monitor, agent)
            booted._do("qmp_capabilities")
            assert agent.receive() == "ready", log.read_text()
            yield booted
        finally:
            running.kill()
            running.wait(10)
            archive.unlink()
