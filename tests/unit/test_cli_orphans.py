"""``mover orphans``: what it says of its own state folder beside what it did on the cluster."""

from __future__ import annotations

import json
import logging
import sqlite3
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import typer
from sqlalchemy.exc import OperationalError

from mover.app import nodes
from mover.catalog.ledger import Kind
from mover.cli import run as running
from mover.cli.cluster import orphans
from mover.errors import HypervisorUnreachable, StateFull
from mover.operations import clean
from mover.operations.reconcile import Action, Verb

ACTION = Action(Verb.LIST, Kind.SNAPSHOT, "not in the ledger", identity="snapshot-1")
FULL = StateFull("The state folder is full", remedy="Make room there.")
BROKEN = OperationalError("DELETE", {}, sqlite3.OperationalError("disk I/O error"))
REFUSED = HypervisorUnreachable("No answer", remedy="Wait.")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """The command over one thing found; what of the state folder fails is named with its error."""
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers = root.handlers[:]

    def run(*, as_json, apply=True, refused=None, **failing):
        async def prune(**_):
            if "ledger" in failing:
                raise failing["ledger"]

        async def forget_jobs():
            if "book" in failing:
                raise failing["book"]

        async def active_jobs():
            if "jobs" in failing:
                raise failing["jobs"]
            return set()

        async def reconcile(_node, *, apply):
            return [clean.Done(ACTION, refused)]

        @asynccontextmanager
        async def looking_node(settings, *, apply):
            ledger = SimpleNamespace(prune=prune)
            yield SimpleNamespace(settings=settings, ledger=ledger, forget_jobs=forget_jobs, active_jobs=active_jobs)

        monkeypatch.setattr(nodes, "looking_node", looking_node)
        monkeypatch.setattr(clean, "reconcile", reconcile)
        code = 0
        try:
            running.command(
                lambda session: orphans(session, apply=apply), as_json=as_json, flags={"state_dir": str(tmp_path)}
            )
        except typer.Exit as ended:
            code = ended.exit_code
        return code, capsys.readouterr()

    yield run
    root.handlers[:] = handlers


FAILURES = [
    ({"book": FULL}, "job.state-full"),
    ({"ledger": FULL}, "job.state-full"),
    ({"ledger": BROKEN}, "job.state-damaged"),
    ({"jobs": FULL}, "job.state-full"),
]


@pytest.mark.parametrize(("failing", "code"), FAILURES, ids=["book", "ledger", "driver", "jobs"])
def test_a_state_folder_that_fails_behind_the_clean_up_is_told_and_so_is_what_was_done(run, failing, code):
    exit_code, shown = run(as_json=True, **failing)
    answer = json.loads(shown.out)
    assert (exit_code, answer["error"]["code"]) == (7, code)
    assert answer["error"]["remedy"]
    assert [item["identity"] for item in answer["actions"]] == ["snapshot-1"]
    exit_code, shown = run(as_json=False, **failing)
    assert exit_code == 7
    assert "snapshot-1" in shown.out
    assert f"[{code}]" in shown.err


def test_jobs_that_cannot_be_counted_are_told_by_a_mere_look_too(run):
    exit_code, shown = run(as_json=True, apply=False, jobs=FULL, book=FULL)
    assert (exit_code, json.loads(shown.out)["error"]["message"]) == (7, FULL.message)


def test_a_look_forgets_nothing(run):
    exit_code, shown = run(as_json=True, apply=False, book=FULL, ledger=FULL)
    assert (exit_code, json.loads(shown.out)["error"]) == (0, None)


def test_what_could_not_be_done_stands_in_its_line(run):
    exit_code, shown = run(as_json=True, refused=REFUSED)
    answer = json.loads(shown.out)
    assert (exit_code, answer["error"]) == (3, None)
    assert answer["actions"][0]["error"]["message"] == "No answer"


def test_a_defect_behind_the_clean_up_is_told_as_one(run):
    exit_code, shown = run(as_json=False, ledger=ZeroDivisionError())
    assert exit_code == 70
    assert "defect of mover" in shown.err
