"""``inventory`` and ``orphans``: what is on the cluster, and what of it is ours."""

from __future__ import annotations

import dataclasses
from typing import Any

import typer
from rich.console import RenderableType
from rich.text import Text

from mover.app import nodes, prisms
from mover.cli.run import Session
from mover.cli.tables import orphans_table, places_table, vms_table
from mover.clock import SystemClock
from mover.errors import ConfigError, MoverError, ProxyUnfit
from mover.jobs.lock import executor_pid
from mover.operations import clean
from mover.operations.node import Node
from mover.operations.reconcile import DOING
from mover.room import trouble_by

FAILED_EXIT = 3


async def inventory(session: Session, *, full: bool) -> None:
    """VMs, and with ``full`` the places they live in."""
    async with prisms.prism(session.settings, SystemClock()) as hypervisor:
        found = await hypervisor.inventory()
        try:
            proxy_uuid = (await prisms.proxy_of(hypervisor, session.settings)).uuid
        except (ProxyUnfit, ConfigError) as error:
            proxy_uuid = None
            session.console.remark(f"note: {error.message}. {error.remedy}", "yellow")
    for note in found.notes:
        session.console.remark(f"note: {note}", "yellow")
    shown: list[RenderableType] = [places_table(found), Text()] if full else []
    session.console.answer(_plain(found), *shown, vms_table(found, proxy_uuid=proxy_uuid))


def _plain(value: Any) -> Any:
    """A dataclass as JSON-able values; what is opaque (a VM's own spec) is left out."""
    tree = dataclasses.asdict(value)
    for vm in tree.get("vms", ()):
        vm.pop("spec", None)
    return tree


async def forget(session: Session, identity: str) -> None:
    """Have one thing, shown to look at, never listed nor touched again."""
    async with nodes.looking_node(session.settings, apply=False) as node:
        done = await clean.forget(node, identity)
    action = done.action
    words = f"The {action.kind} {action.identity} is yours now: mover does not list or touch it any more."
    session.console.answer({"forgotten": done.as_dict()}, Text(words))


def to_continue(jobs: int) -> str:
    """That something of ours is on the cluster, and why it is no orphan."""
    have = "job was cut off and has" if jobs == 1 else "jobs were cut off and have"
    return (
        f"{jobs} {have} things there still (mover job list): the next backup, restore or mover serve goes on with them."
    )


async def orphans(session: Session, *, apply: bool) -> None:
    """The plan of reconcile, or its doing; exit with 3 when something could not be done.

    Raises, behind the answer (whose "error" it is), what the state folder answers once the cluster is seen to.
    """
    async with nodes.looking_node(session.settings, apply=apply) as node:
        done = [item.as_dict() for item in await clean.reconcile(node, apply=apply)]
        waiting, error = await _own_matters(node, apply=apply)
        table = orphans_table(done) if done else Text("Nothing of ours is on the cluster that nothing needs.")
        session.console.answer({"applied": apply, "actions": done, "error": error.as_dict() if error else None}, table)
    if not apply and any(item["action"] in DOING for item in done):
        session.console.remark("Do it with: mover orphans --apply")
    if waiting and executor_pid(session.settings.state_dir) is None:
        session.console.remark(to_continue(waiting), "yellow")
    if error:
        raise error
    if any(item["error"] for item in done):
        raise typer.Exit(FAILED_EXIT)


async def _own_matters(node: Node, *, apply: bool) -> tuple[int, MoverError | None]:
    """How many jobs are to be continued, and what failed as these were counted and the past was forgotten."""
    waiting = 0
    try:
        waiting = len(await node.active_jobs())
        return waiting, await clean.forget_the_past(node) if apply else None
    except MoverError as error:
        return waiting, error
    except Exception as error:
        trouble = trouble_by(node.settings.state_dir, error)
        if trouble is None:
            raise
        return waiting, trouble
