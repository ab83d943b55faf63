"""A Debian with systemd of its own, booted beside the tests: what stands in for a fresh Proxy VM.

It shares kernel and network with this machine, nothing else. Real: systemd, packages, control
groups, device rules. Not real: disks and Prism, which are the lab's.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

TOOLS = ("mmdebstrap", "systemd-nspawn", "nsenter")
needs_vm = [
    pytest.mark.node,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="booting a Debian needs root"),
    pytest.mark.skipif(
        any(shutil.which(tool) is None for tool in TOOLS), reason=f"needs {', '.join(TOOLS)}: make node-test"
    ),
]
_PACKAGES = "systemd-sysv,dbus,udev,python3,python3-apt,lvm2,mdadm,multipath-tools"
"""What a Proxy VM has before anybody installs a node: an init, Ansible's Python, and all that could take a disk."""
_BOOT_S = 120.0


class ProxyVm:
    """The booted system. root: its files, as seen from here."""

    def __init__(self, folder: Path, root: Path, leader: int) -> None:
        self.root = root
        self.exchange = folder / "exchange"
        """A folder of the same path on both sides: where Ansible leaves files for the machine."""
        self._enter = ["nsenter", "--all", "--target", str(leader)]
        self.python = folder / "python"
        """Its Python, to be started from here: what Ansible takes for the interpreter of the machine."""
        self.python.write_text(f'#!/bin/sh\nexec {" ".join(self._enter)} /usr/bin/python3 "$@"\n')
        self.python.chmod(0o755)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command as its root, in English, whatever its end."""
        environment = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"}
        command = (*self._enter, *command)
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)

    def answer(self, *command: str) -> str:
        """Its standard output; it must end well."""
        done = self.run(*command)
        assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def restart_daemon(self) -> None:
        self.answer("systemctl", "daemon-reload")
        self.answer("systemctl", "restart", "mover")
        self.wait_for_log('"event": "serving"')

    def wait_for_log(self, words: str) -> None:
        """Until the daemon of now has said it."""
        unit = self.answer("systemctl", "show", "--value", "--property=InvocationID", "mover").strip()
        command = [*self._enter, "journalctl", "--follow", "--lines=all", f"_SYSTEMD_INVOCATION_ID={unit}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as journal:
            try:
                assert journal.stdout is not None
                assert any(words in line for line in journal.stdout)
            finally:
                journal.kill()


@contextmanager
def proxy_vm(folder: Path, *, shared: dict[Path, str]) -> Iterator[ProxyVm]:
    """Make it, boot it, and take it away again. shared: folders of this machine → their place inside."""
    root = folder / "root"
    _make(root)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.settimeout(_BOOT_S)
    listener.bind(str(folder / "notify"))
    command = ["systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--console=pipe"]
    command += ["--directory", str(root), "--notify-ready=yes"]
    # Device rules are programs in control groups of the second version: the system inside must be able to load them.
    command += ["--capability=all", "--system-call-filter=bpf"]
    exchange = folder / "exchange"
    exchange.mkdir()
    places = {exchange: str(exchange), **shared}
    command += [f"--bind={here}:{there}" for here, there in places.items()]
    environment = {
        **os.environ,
        "NOTIFY_SOCKET": str(folder / "notify"),
        "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
        "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "yes",
    }
    with listener, (folder / "console").open("w") as console:
        booted = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT
        )
        try:
            yield ProxyVm(folder, root, _leader(listener))
        finally:
            # It has the system power off, in order, and ends after it.
            booted.terminate()
            booted.wait(90)
            shutil.rmtree(root)


def _make(root: Path) -> None:
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={_PACKAGES}"]
    # The lists stay, as on a machine that is in use.
    command += ["--skip=cleanup/apt", "bookworm", str(root), *_mirror()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf", follow_symlinks=True)


def _mirror() -> list[str]:
    """The one that this machine's packages come from, if it is a Debian of this name; else the maker's own."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [line.split()[0] for line in lines if line.endswith(" bookworm")][:1]


def _leader(listener: socket.socket) -> int:
    """The process id of the system's first process; waits until it has booted."""
    leader, ready = 0, False
    while not (leader and ready):
        for line in listener.recv(4096).decode().splitlines():
            key, _, value = line.partition("=")
            leader = int(value) if key == "X_NSPAWN_LEADER_PID" else leader
            ready = ready or (key, value) == ("READY", "1")
    return leader
