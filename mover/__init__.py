"""Backup data mover for Nutanix AHV. Sees to it that whoever imports sqlite3 later gets one that is new enough."""

import sys
from _sqlite3 import sqlite_version
from importlib import import_module

__version__ = "0.1.0"

# RHEL 9 has SQLite 3.34; dbos speaks RETURNING, which 3.35 brought.
if tuple(map(int, sqlite_version.split("."))) < (3, 35):
    sys.modules["sqlite3"] = import_module("pysqlite3")
