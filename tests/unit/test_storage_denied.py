"""A repository's folder that refuses us: whose it is, who we are, and what to do, root_squash included."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mover.errors import StoreDenied
from mover.storage import problems
from mover.storage.mounts import Mount
from tests.support.source import ROOT


@pytest.mark.parametrize(
    ("uid", "kind", "words"),
    [
        (0, "nfs4", ("root_squash", "anonuid", "no_root_squash")),
        (0, "nfs", ("root_squash",)),
        (0, "ext4", ("CAP_DAC_OVERRIDE", "chown")),
        (1000, "nfs4", ("Give the user of mover",)),
    ],
)
def test_the_remedy_is_that_of_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid, kind, words):
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(problems, "read_mount", lambda folder: Mount(kind, ()))
    error = problems.store_error(PermissionError(errno.EACCES, "no"), folder=tmp_path, doing="writing")
    assert isinstance(error, StoreDenied)
    assert all(word in error.remedy for word in words)
    assert ("root_squash" in error.remedy) == (uid == 0 and kind.startswith("nfs"))
    assert error.facts["running_as"].startswith(f"user {uid}, ")
    assert "mode 7" in error.facts["folder_of"]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up its power over others' folders")
def test_a_root_without_power_over_others_files_is_told_whose_the_folder_is(tmp_path: Path):
    """What an export with root_squash does to root, by the kernel itself."""
    (tmp_path / "theirs").mkdir(mode=0o755)
    os.chown(tmp_path / "theirs", 1000, 1000)
    script = """
import asyncio, sys
from pathlib import Path
from mover.storage.local import LocalStore
from mover.errors import StoreDenied
async def main():
    store = LocalStore(Path(sys.argv[1]))
    try:
        await store.create("packs/one", [b"x"])
    except StoreDenied as error:
        print(error.message, error.facts, error.remedy)
    await store.close()
asyncio.run(main())
"""
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]
    done = subprocess.run(
        [*drop, sys.executable, "-c", script, str(tmp_path / "theirs")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Permission denied" in done.stdout
    assert "user 1000, group 1000, mode 755" in done.stdout
    assert "CAP_DAC_OVERRIDE" in done.stdout
