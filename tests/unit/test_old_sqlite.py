"""Where Python's SQLite is older than the engine of the jobs needs, as on RHEL 9, mover brings a newer one."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

NEEDS_IT = pytest.mark.skipif(find_spec("pysqlite3") is None, reason="it is there for Linux on x86_64 alone")

OLD = """
import sys, _sqlite3
_sqlite3.sqlite_version = sys.argv[1]
"""
NEITHER = """
sys.modules["pysqlite3"] = None
"""
NEWER = """
import mover, sqlite3
"""
WHICH = """
print(sqlite3.__name__)
"""
SUBMIT = """
import aiosqlite, asyncio
from pathlib import Path
from mover.clock import SystemClock
from mover.jobs.book import JobBook

async def submit():
    book = JobBook(Path(sys.argv[2]), clock=SystemClock())
    job = await book.submit("add", {"value": 5})
    listed = await book.jobs()
    await book.close()
    return [one.id for one in listed] == [job]

print(aiosqlite.DatabaseError is sqlite3.DatabaseError, asyncio.run(submit()))
"""


def probe(script, *words):
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    return done.stdout.split() or done.stderr


@pytest.mark.parametrize(
    ("version", "taken"),
    [pytest.param("3.9.2", "pysqlite3", marks=NEEDS_IT), ("3.35.0", "sqlite3"), ("3.46.1", "sqlite3")],
)
def test_a_newer_sqlite_is_taken_where_pythons_is_too_old(version, taken):
    assert probe(OLD + NEWER + WHICH, version) == [taken]


@NEEDS_IT
def test_jobs_are_kept_by_the_newer_one(tmp_path):
    assert probe(OLD + NEWER + WHICH + SUBMIT, "3.34.1", tmp_path) == ["pysqlite3", "True", "True"]


def test_without_a_newer_one_only_jobs_are_refused_in_words(tmp_path):
    said = probe(OLD + NEITHER + NEWER + SUBMIT, "3.34.1", tmp_path)
    assert "ConfigError: This Python's SQLite is 3.34.1; jobs need 3.35 or newer" in said
