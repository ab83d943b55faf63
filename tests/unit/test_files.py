"""A file that is written whole, or not at all."""

from __future__ import annotations

import errno
import os

import pytest

from mover.files import write_whole


def test_a_new_file_may_be_read_by_all_and_a_former_one_keeps_its_rights(tmp_path):
    path = tmp_path / "kept"
    write_whole(path, b"first")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"first", 0o644)
    path.chmod(0o600)
    write_whole(path, b"second")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"second", 0o600)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_what_stops_it_leaves_the_former_file_and_nothing_beside_it(tmp_path, monkeypatch, error):
    path = tmp_path / "kept"
    path.write_bytes(b"former")

    def full(_):
        raise error

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(type(error)):
        write_whole(path, b"new")
    assert path.read_bytes() == b"former"
    assert list(tmp_path.iterdir()) == [path]
