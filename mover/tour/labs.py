"""``lab``: a simulated Prism for a first run and for tests, with a settings file to talk to it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import yaml
from rich.text import Text

from mover.cli.run import Session
from mover.errors import UsageError
from mover.lab.disks import clean as clean_devices
from mover.lab.filling import demo_vms
from mover.lab.server import DiskSpec, Lab, LabOptions, VmSpec, serve
from mover.units import MIB

GUESTS = ("demo", "small")


def options(guests: str) -> LabOptions:
    """What the lab is made of at its first start. Raises UsageError."""
    if guests == "demo":
        return LabOptions(vms=demo_vms())
    if guests == "small":
        disks = (DiskSpec(size_bytes=16 * MIB), DiskSpec(size_bytes=8 * MIB))
        return LabOptions(vms=(VmSpec(name="one", disks=disks[:1]), VmSpec(name="two", disks=disks)))
    raise UsageError(f"There are no guests {guests!r}", remedy=f"Choose one of: {', '.join(GUESTS)}.")


async def lab(session: Session, folder: Path, *, guests: str, clean: bool) -> None:
    """Serve until Ctrl-C, or clean up after a lab that was killed."""
    if clean:
        removed = clean_devices(folder)
        session.console.answer({"removed": removed}, Text("\n".join(removed) or "Nothing was left behind."))
        return
    told = asyncio.Event()

    def on_ready(running: Lab) -> None:
        file = write_settings(running, folder)
        session.console.answer(running.describe(), Text(_greeting(running, file)))
        told.set()

    await serve(folder, options(guests), on_ready)


def write_settings(running: Lab, folder: Path) -> Path:
    """``mover.yaml`` beside the lab: everything to work against it, a repository folder too. Absolute."""
    folder = folder.absolute()
    password = folder / "password"
    password.write_text(running.password + "\n")
    password.chmod(0o600)
    passphrase = folder / "passphrase"
    if not passphrase.exists():
        passphrase.write_text("only a lab's passphrase\n")
    settings = {
        "state_dir": str(folder / "state"),
        "node": {
            "device_root": str(running.device_root),
            "allow_regular_files": not running.has_real_devices,
        },
        "prism": {
            "url": running.element_url,
            "username": running.username,
            "password_file": str(password),
            "ca_file": str(running.ca_file),
        },
        "repository": {
            "url": str(folder / "repository"),
            "passphrase_file": str(passphrase),
        },
        "limits": {"container_free": "1GiB"},
    }
    file = folder / "mover.yaml"
    file.write_text(f"# Settings for the lab in this folder.\n{yaml.safe_dump(settings, sort_keys=False)}")
    return file


def _greeting(running: Lab, file: Path) -> str:
    facts = running.describe()
    return "\n".join(
        [
            f"Element  {running.element_url}    user {running.username}, password {running.password}",
            f"Central  {facts['central_url'] or '-'}",
            f"Control  {running.control_url}/lab    (faults, call log, guests)",
            f"Devices  {facts['devices']}; disks: {facts['disks']}",
            f"VMs      {', '.join(facts['vms'])}",
            *(f"Note     {note}" for note in facts["notes"]),
            "",
            f"Settings are in {file}. Elsewhere, try:",
            f"  export MOVER_CONFIG={file}",
            "  mover check",
            "  mover init",
            "  mover backup web01" if "web01" in facts["vms"] else "  mover backup one",
            "Ctrl-C stops the lab; its state stays.",
        ]
    )
