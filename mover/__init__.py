"""Backup data mover for Nutanix AHV. Sees to it that whoever imports sqlite3 later gets one that is new enough."""

import sys
from _sqlite3 import sqlite_version
from contextlib import suppress
from importlib import import_module

__version__ = "0.1.0"

SQLITE_LEAST = (3, 35)
"""dbos speaks RETURNING, which this brought. RHEL 9 has 3.34."""

if tuple(map(int, sqlite_version.split("."))) < SQLITE_LEAST:
    # Where none is to be had, commands without jobs do without it; those with jobs say so.
    with suppress(ImportError):
        sys.modules["sqlite3"] = import_module("pysqlite3")
