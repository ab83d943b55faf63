"""Commands run on this node around a snapshot: arguments, time limit, exit-code policy.

A command gets no shell. One that outlives its limit is killed with all its children. That
the second one is owed, from before the first one runs, is the ledger's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping

from mover import logs
from mover.config import HookSettings
from mover.errors import HookFailed

_LOG = logs.get(__name__)
_OUTPUT_SHOWN = 2000
_PLACES = ("vm_name", "vm_uuid", "job_id")


def arguments(settings: HookSettings, values: Mapping[str, str]) -> list[str]:
    """The command with {vm_name}, {vm_uuid}, {job_id} replaced; other braces stay as they are."""
    filled = []
    for part in settings.command:
        for place in _PLACES:
            part = part.replace(f"{{{place}}}", values[place])
        filled.append(part)
    return filled


async def run_hook(settings: HookSettings, values: Mapping[str, str], *, which: str) -> str | None:
    """Run one command to its end. None when it succeeded, or a warning in words.

    which: ``pre-snapshot`` or ``post-snapshot``. Raises HookFailed where the policy says fail.
    """
    if not settings.command:
        return None
    command = arguments(settings, values)
    problem = await _problem(command, settings)
    if problem is None:
        return None
    text = f"The {which} command {command[0]} {problem}"
    _LOG.warning("hook", which=which, problem=problem)
    if settings.on_failure == "warn":
        return text
    raise HookFailed(
        text, remedy=f"Mend the command, or set backup.{which.replace('-', '_')}.on_failure to warn.", command=command
    )


async def _problem(command: list[str], settings: HookSettings) -> str | None:
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return f"could not be started: {error.strerror}"
    try:
        async with asyncio.timeout(settings.timeout):
            output, _ = await process.communicate()
    except TimeoutError:
        return f"was killed after {settings.timeout:g} s"
    finally:
        await _end(process)
    if process.returncode in settings.accept:
        return None
    said = output.decode("utf-8", "replace").strip()[-_OUTPUT_SHOWN:]
    return f"ended with exit code {process.returncode}" + (f": {said}" if said else "")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill what is left of the command's process group, and reap it."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
