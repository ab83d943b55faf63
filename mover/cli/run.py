"""From a typed command to a coroutine and an exit code: settings, logs, loop, errors."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
import uvloop
import yaml

from mover import logs
from mover.cli.console import INTERNAL_EXIT, INTERRUPTED_EXIT, Console, first_error
from mover.config import Settings
from mover.errors import MoverError, UsageError
from mover.settings import load

DEFAULT_FILES = (Path("mover.yaml"), Path("/etc/mover/mover.yaml"))


@dataclass(frozen=True, slots=True)
class Session:
    """What every command gets."""

    settings: Settings
    console: Console
    config_file: Path | None


def command(
    work: Callable[[Session], Awaitable[None]],
    *,
    config: Path | None = None,
    assignments: Sequence[str] | None = None,
    as_json: bool = False,
    flags: dict[str, Any] | None = None,
    is_daemon: bool = False,
) -> None:
    """Run one command to its exit code. flags: dotted setting → value of the command's own options."""
    console = Console(as_json=as_json)
    try:
        file = config or next((path for path in DEFAULT_FILES if path.is_file()), None)
        settings = load(file, flags={**_assigned(assignments or ()), **(flags or {})})
        logs.configure(settings.log, secrets=_secrets(settings), is_daemon=is_daemon)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_awaited(work(Session(settings, console, file))))
    except KeyboardInterrupt:
        console.remark("Interrupted.")
        raise typer.Exit(INTERRUPTED_EXIT) from None
    except BrokenPipeError:
        raise typer.Exit(0) from None
    except Exception as error:
        raise typer.Exit(_reported(console, first_error(error))) from None


async def _awaited(work: Awaitable[None]) -> None:
    await work


def _reported(console: Console, error: BaseException) -> int:
    if isinstance(error, MoverError):
        console.fail(error)
        return error.exit_code
    console.err.print("".join(traceback.format_exception(error)), style="dim", markup=False)
    console.err.print(
        f"This is a defect of mover, not of yours: {error!r}. Please report the lines above.", markup=False
    )
    return INTERNAL_EXIT


def _assigned(assignments: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text}: no value", remedy="Write --set NAME=VALUE, e.g. --set data.level=3.")
        found[name.strip()] = yaml.safe_load(value) if value[:1] in ("[", "{") else value
    return found


def _secrets(settings: Settings) -> list[str]:
    return [
        settings.prism.password.get_secret_value(),
        settings.repository.passphrase.get_secret_value(),
        settings.repository.store.get("secret_access_key", ""),
    ]
