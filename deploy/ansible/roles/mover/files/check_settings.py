"""Reads a settings file as mover does, secrets and all, and touches nothing else. usage: check_settings.py FILE"""

import sys
from pathlib import Path

from mover.errors import MoverError
from mover.settings import load

try:
    load(Path(sys.argv[1]))
except MoverError as error:
    sys.exit(f"{error.message}. {error.remedy}")
