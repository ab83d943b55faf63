"""``init`` and ``check``: before the first backup."""

from __future__ import annotations

import sys

import typer
from rich.text import Text

from mover import app
from mover.cli.run import Session
from mover.cli.tables import checks_table
from mover.clock import SystemClock
from mover.errors import ConfigError, UsageError
from mover.operations.preflight import preflight
from mover.repository.repository import Repository
from mover.storage.probe import probe


async def init(session: Session, *, no_encryption: bool) -> None:
    """Probe the store and make a repository in it."""
    clock = SystemClock()
    passphrase = None if no_encryption else _passphrase(session)
    if no_encryption and session.settings.repository.passphrase.get_secret_value():
        raise UsageError(
            "A passphrase is set and --no-encryption is given", remedy="Drop the one that you do not mean."
        )
    async with app.store(session.settings, clock, create=True) as store:
        traits = await probe(store, clock)
        repository_id = await Repository.init(store, passphrase=passphrase, clock=clock)
    kind = "encrypted" if passphrase else "NOT encrypted"
    answer = {"repository": repository_id, "encrypted": bool(passphrase), "store": traits.description}
    text = Text(f"Repository {repository_id} made, {kind}, in {session.settings.repository.url}\n")
    if passphrase:
        text.append("Keep the passphrase: without it no byte comes back.", "bold")
    else:
        text.append("Whoever can read the store can read every disk in it.", "bold yellow")
    if not traits.has_create_only:
        text.append("\nThis store overwrites existing objects: let one mover at a time write to it.", "yellow")
    session.console.answer(answer, text)


def _passphrase(session: Session) -> str:
    known: str = session.settings.repository.passphrase.get_secret_value()
    if known:
        return known
    if not sys.stdin.isatty():
        raise ConfigError(
            "No passphrase for the new repository",
            remedy="Set repository.passphrase_file (or MOVER_REPOSITORY__PASSPHRASE), or say --no-encryption.",
        )
    entered: str = typer.prompt("Passphrase of the new repository", hide_input=True, confirmation_prompt=True, err=True)
    return entered


async def check(session: Session) -> None:
    """Print every line of the preflight; exit with 3 when one is a problem."""
    lines = [line.as_dict() for line in await preflight(app.preflight_ports(session.settings, SystemClock()))]
    session.console.answer({"checks": lines}, checks_table(lines))
    problems = sum(line["state"] == "problem" for line in lines)
    if problems:
        session.console.remark(f"{problems} problem{'s' if problems > 1 else ''} to mend before a backup.")
        raise typer.Exit(3)
