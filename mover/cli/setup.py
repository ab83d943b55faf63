"""``init`` and ``check``: before the first backup."""

from __future__ import annotations

import typer
from rich.text import Text

from mover import logs
from mover.app import nodes, stores
from mover.cli.run import Session
from mover.cli.tables import checks_table
from mover.clock import Clock, SystemClock
from mover.errors import ConfigError, MoverError, TargetExists, UsageError, WrongKey
from mover.operations.preflight import preflight
from mover.repository.repository import Repository
from mover.storage.probe import probe

PROBLEM_EXIT = 3
_LOG = logs.get(__name__)


def ask_passphrase(session: Session, *, no_encryption: bool) -> Session:
    """Settle, before anything is made, how the repository is encrypted. Raises UsageError, ConfigError."""
    if no_encryption:
        if session.has_passphrase:
            raise UsageError(
                "A passphrase is set and --no-encryption is given", remedy="Drop the one that you do not mean."
            )
        return session
    if session.has_passphrase:
        return session
    if not session.console.can_ask:
        raise ConfigError(
            "No passphrase for the new repository",
            remedy="Set repository.passphrase_file (or MOVER_REPOSITORY__PASSPHRASE), or say --no-encryption.",
        )
    title = "Passphrase of the new repository"
    return session.with_passphrase(typer.prompt(title, hide_input=True, confirmation_prompt=True, err=True))


async def init(session: Session) -> None:
    """Probe the store and make a repository in it; without a passphrase, an open one."""
    clock = SystemClock()
    passphrase = session.settings.repository.passphrase.get_secret_value() or None
    async with stores.store(session.settings, clock, create=True) as store:
        traits = await probe(store, clock)
        try:
            repository_id = await Repository.init(store, passphrase=passphrase, clock=clock)
        except TargetExists:
            raise TargetExists(
                f"There is a repository in {session.settings.repository.url} already",
                remedy="It needs no init: see what it holds with mover points. For another one name another place.",
            ) from None
    kind = "encrypted" if passphrase else "NOT encrypted"
    answer = {"repository": repository_id, "encrypted": bool(passphrase), "store": traits.description}
    text = Text(f"Repository {repository_id[:8]} made, {kind}, in {session.settings.repository.url}\n")
    if passphrase:
        text.append("Keep the passphrase: without it no byte comes back.", "bold")
    else:
        text.append("Whoever can read the store can read every disk in it.", "bold yellow")
    if not traits.has_create_only:
        text.append("\nThis store overwrites existing objects: let one mover at a time write to it.", "yellow")
    session.console.answer(answer, text)


async def check(session: Session) -> None:
    """Print every line of the preflight; exit with 3 when one is a problem."""
    clock = SystemClock()
    if session.console.can_ask and not session.has_passphrase:
        await _raise_if_locked(session, clock)
    lines = [line.as_dict() for line in await preflight(nodes.preflight_ports(session.settings, clock))]
    session.console.answer({"checks": lines}, checks_table(lines))
    problems = sum(line["state"] == "problem" for line in lines)
    if problems:
        session.console.remark(f"{problems} problem{'s' if problems > 1 else ''} to mend before a backup.")
        raise typer.Exit(PROBLEM_EXIT)


async def check_settings(session: Session) -> None:
    """Say that the settings could be read, which they were before this began."""
    session.console.answer({"settings": "ok"}, Text("The settings and their secrets can be read."))


async def _raise_if_locked(session: Session, clock: Clock) -> None:
    """Raises WrongKey, upon which a person is asked for the passphrase; other errors are the preflight's to tell."""
    try:
        async with stores.point_book(session.settings, clock):
            pass
    except WrongKey:
        raise
    except MoverError as error:
        _LOG.debug("the repository cannot be opened yet", error=error.message)
