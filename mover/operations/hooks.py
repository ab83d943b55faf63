"""Commands run on this node around a snapshot: arguments, time limit, exit-code policy.

A command gets no shell. One that outlives its limit is killed with all its children. That
the second one is owed, from before the first one runs, is the ledger's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import Mapping
from typing import IO

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
    # Into a file: however much it says costs no memory, and a child that it leaves behind (the holder of
    # a database's lock) keeps nobody waiting.
    with tempfile.TemporaryFile() as output:
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            return f"could not be started: {error.strerror}"
        try:
            async with asyncio.timeout(settings.timeout):
                await process.wait()
        except TimeoutError:
            return f"was killed after {settings.timeout:g} s"
        finally:
            await _end(process)
        if process.returncode in settings.accept:
            return None
        said = _end_of(output)
    return f"ended with exit code {process.returncode}" + (f": {said}" if said else "")


def _end_of(output: IO[bytes]) -> str:
    output.seek(max(0, output.seek(0, os.SEEK_END) - _OUTPUT_SHOWN))
    return output.read(_OUTPUT_SHOWN).decode("utf-8", "replace").strip()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill what is left of the command's process group, and reap it."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
