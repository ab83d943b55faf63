"""From a typed command to a coroutine and an exit code: settings, logs, loop, signals, errors."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import stat
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO, cast

import typer
import uvloop
import yaml
from pydantic import SecretStr

from mover import logs
from mover.cli.console import INTERNAL_EXIT, INTERRUPTED_EXIT, STOPPED_EXIT, Console, LiveStderr, first_error
from mover.config import Settings
from mover.errors import JobInterrupted, MoverError, SpaceShort, UsageError, WrongKey
from mover.heap import prepare_heap
from mover.settings import load

DEFAULT_FILES = (Path("mover.yaml"), Path("/etc/mover/mover.yaml"))


@dataclass(slots=True)
class Stop:
    """Whether somebody asked the process to end (SIGTERM, SIGHUP): its jobs are to be continued, not cancelled."""

    is_wished: bool = False


@dataclass(frozen=True, slots=True)
class Session:
    """What every command gets."""

    settings: Settings
    console: Console
    stop: Stop = field(default_factory=Stop)

    @property
    def has_passphrase(self) -> bool:
        return bool(self.settings.repository.passphrase.get_secret_value())

    def with_passphrase(self, text: str) -> Session:
        """The same, with the passphrase that was typed."""
        repository = self.settings.repository.model_copy(update={"passphrase": SecretStr(text)})
        return replace(self, settings=self.settings.model_copy(update={"repository": repository}))


Work = Callable[[Session], Awaitable[None]]


def command(
    work: Work,
    *,
    config: Path | None = None,
    assignments: Sequence[str] | None = None,
    as_json: bool = False,
    flags: dict[str, Any] | None = None,
    is_daemon: bool = False,
    prepare: Callable[[Session], Session] | None = None,
) -> None:
    """Run one command to its exit code. flags: dotted setting → value of the command's own options.

    prepare: what must be asked before the loop runs. A daemon that is told to end ends well.
    """
    console = Console(as_json=as_json)
    try:
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # as the entry point left it
            signal.signal(signal.SIGINT, signal.default_int_handler)
        settings = load(config or _default_file(), flags={**_assigned(assignments or ()), **(flags or {})})
        session = Session(settings, console)
        session = prepare(session) if prepare else session
        _configure_logs(session, is_daemon=is_daemon)
        _run_asking(work, session)
    except (KeyboardInterrupt, typer.Abort, asyncio.CancelledError) as error:
        is_stop = isinstance(error, asyncio.CancelledError)
        console.remark("Stopped." if is_stop or is_daemon else "Interrupted.")
        raise typer.Exit(0 if is_daemon else STOPPED_EXIT if is_stop else INTERRUPTED_EXIT) from None
    except BrokenPipeError:
        raise typer.Exit(0) from None
    except typer.Exit:
        raise
    except Exception as error:
        raise typer.Exit(_reported(console, first_error(error))) from None


def _default_file() -> Path | None:
    """The first that is there; one below /etc also where this user may not look, so that this is said.

    A folder of its name below /etc counts, too: Podman-compose and Docker make one of a file that was not written yet.
    """
    for path in DEFAULT_FILES:
        try:
            kind = path.stat().st_mode
            if stat.S_ISREG(kind) or (stat.S_ISDIR(kind) and path.is_absolute()):
                return path
        except PermissionError:
            if path.is_absolute():
                return path
        except OSError:
            continue
    return None


def _run_asking(work: Work, session: Session) -> None:
    """Run; where only the passphrase lacks and a person sits there, ask for it once and run again."""
    try:
        _run(work, session)
    except Exception as error:
        is_locked = isinstance(first_error(error), WrongKey)
        if not is_locked or session.has_passphrase or not session.console.can_ask:
            raise
        session = session.with_passphrase(typer.prompt("Passphrase of the repository", hide_input=True, err=True))
        _configure_logs(session, is_daemon=False)
        _run(work, session)


def _run(work: Work, session: Session) -> None:
    prepare_heap()
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    try:
        runner.run(_attended(work, session))
    finally:
        _close(runner)


def _close(runner: asyncio.Runner) -> None:
    try:
        runner.close()
    except OSError as error:
        # A TLS connection that was refused may still be saying goodbye; the process ends without it.
        if error.errno != errno.EBUSY:
            raise


async def _attended(work: Work, session: Session) -> None:
    """The work, cancelled by SIGTERM and SIGHUP as by Ctrl-C, but with the wish to go on later."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None

    def end() -> None:
        session.stop.is_wished = True
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end)
    await work(session)


def _configure_logs(session: Session, *, is_daemon: bool) -> None:
    settings = session.settings
    secrets = [
        settings.prism.password.get_secret_value(),
        settings.repository.passphrase.get_secret_value(),
        *(settings.repository.store.get(name, "") for name in ("secret_access_key", "session_token")),
    ]
    logs.configure(settings.log, secrets=secrets, stream=cast(TextIO, LiveStderr()), is_daemon=is_daemon)
    if not is_daemon:
        logging.getLogger().handlers[0].addFilter(_is_not_told_anyway)


def _is_not_told_anyway(record: logging.LogRecord) -> bool:
    """A command ends with the error of its job: the log need not say it before."""
    return not (isinstance(record.msg, dict) and record.msg.get("event") == "job failed")


def _reported(console: Console, error: BaseException) -> int:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        error = _without_room(error)
    if isinstance(error, MoverError):
        console.fail(error)
        return INTERRUPTED_EXIT if isinstance(error, JobInterrupted) else error.exit_code
    if console.as_json:
        console.fail(MoverError(repr(error), remedy="Report this defect of mover, with the lines on standard error."))
    console.err.print("".join(traceback.format_exception(error)), style="dim", markup=False)
    console.err.print(
        f"This is a defect of mover, not of yours: {error!r}. Please report the lines above.", markup=False
    )
    return INTERNAL_EXIT


def _without_room(error: OSError) -> SpaceShort:
    """Whatever was being written: a full disk is no defect of ours."""
    return SpaceShort(
        f"There is no room for {error.filename or 'what was to be written'}: {error.strerror}",
        remedy="Look at free space, quota and inodes of its file system; make room, then run the command again.",
    )


def _assigned(assignments: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text}: no value", remedy="Write --set NAME=VALUE, e.g. --set data.level=3.")
        found[name.strip()] = _yaml(text, value) if value[:1] in ("[", "{") and value else value
    return found


def _yaml(text: str, value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        why = " ".join(str(error).split())
        raise UsageError(f"--set {text}: {why}", remedy="Write lists as [a, b] and maps as {a: b}.") from None
