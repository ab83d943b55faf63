"""What short commands load: nothing that they do not use, since an import costs more than their work."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mover.storage.local import LocalStore
from tests.support.repositories import PASSPHRASE, backup, blocks_of, make, open_in

PROGRAM = """
import atexit, sys
from mover.program import app
atexit.register(lambda: print("loaded:", *sorted(set(sys.argv[1].split(",")) & set(sys.modules))))
app(sys.argv[2:])
"""
LIBRARIES = {
    *("aiohttp", "dbos", "numpy", "obstore", "prometheus_client", "scipy", "sqlalchemy", "structlog"),
    *("pygments", "rich.progress", "rich.traceback"),
}
OURS = {
    *("mover.catalog", "mover.hypervisor", "mover.jobs.book", "mover.jobs.engine", "mover.lab"),
    *("mover.metrics", "mover.operations.backup", "mover.pipeline", "mover.repository.repository"),
}


def run(folder: Path, *words: str, unwanted: set[str], passphrase: str = PASSPHRASE) -> list[str]:
    """The lines of a command's answer; the last one says what of the unwanted it has loaded."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MOVER_")}
    settings = {"MOVER_STATE_DIR": str(folder / "state"), "MOVER_REPOSITORY__PASSPHRASE": passphrase}
    command = [sys.executable, "-c", PROGRAM, ",".join(sorted(unwanted)), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder, env={**kept, **settings})
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds a repository with one point of web01."""
    place = tmp_path_factory.mktemp("startup")
    asyncio.run(_fill(place))
    return place


async def _fill(place: Path) -> None:
    (place / "repository").mkdir()
    store = await make(LocalStore(place / "repository"))
    repository = await open_in(store, place / "cache")
    await backup(repository, blocks_of(1, 20), "p1")
    await repository.close()
    await store.close()


def test_help_loads_no_library_but_that_of_the_command_line(tmp_path: Path) -> None:
    shown = run(tmp_path, "--help", unwanted=LIBRARIES | OURS | {"asyncio", "pydantic", "rich.console", "yaml"})
    assert shown[-1] == "loaded:"


@pytest.mark.parametrize("words", [["points"], ["points", "--json"], ["points", "show", "web01"]])
def test_looking_at_points_loads_what_points_need(folder: Path, words: list[str]) -> None:
    *answer, loaded = run(folder, *words, "-r", str(folder / "repository"), unwanted=LIBRARIES | OURS)
    assert any("web01" in line for line in answer)
    assert loaded == "loaded:"


def test_what_was_loaded_is_told(folder: Path) -> None:
    used = {"asyncio", "pydantic", "rich.console", "mover.repository.pointbook"}
    shown = run(folder, "points", "-r", str(folder / "repository"), unwanted=LIBRARIES | used)
    assert shown[-1] == " ".join(["loaded:", *sorted(used)])


INTERRUPTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell's background ignores it
awaited = sys.argv.pop(1)

class Watching:
    def find_spec(self, name, *_):
        if name == awaited:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Watching())
from mover.__main__ import main
main()
"""


@pytest.mark.parametrize("library", ["typer", "mover.cli.points", "uvloop"])
def test_ctrl_c_while_libraries_load_ends_without_a_word(folder: Path, library: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED, library, "points", "-r", str(folder / "repository")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_a_program_is_left_to_ignore_ctrl_c(tmp_path: Path) -> None:
    """As a shell wants it of what it starts in the background."""
    program = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); from mover.__main__ import main; main()"
    look = "import atexit, signal; atexit.register(lambda: print(signal.getsignal(signal.SIGINT).name)); "
    done = subprocess.run([sys.executable, "-c", look + program, "--version"], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "SIG_IGN"
