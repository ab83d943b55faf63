"""The frame around every bench: what stops it, where it works, what it notes."""

from __future__ import annotations

import errno
import os
import subprocess

import pytest
import typer

from bench import kit
from mover.errors import SpaceShort, UsageError


def test_what_stops_a_bench_is_said_in_words(tmp_path, capsys):
    def ended(error: BaseException) -> tuple[int, str]:
        with pytest.raises(typer.Exit) as end, kit.said_in_words():
            raise error
        return end.value.exit_code, capsys.readouterr().err

    assert ended(KeyboardInterrupt()) == (130, "Stopped before the end: nothing was written.\n")
    code, said = ended(OSError(errno.ENOSPC, "No space left on device", "/data/x"))
    assert code == 1
    assert "No space left on device (/data/x)" in said
    code, said = ended(ExceptionGroup("many", [UsageError("wrong", remedy="Do it right.")]))
    assert code == 2
    assert "Do it right." in said
    code, said = ended(subprocess.CalledProcessError(3, ["fio", "x"], stderr="one\ntwo"))
    assert "exit code 3: fio x" in said
    assert "two" in said


def test_an_error_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), kit.said_in_words():
        raise ZeroDivisionError
    with pytest.raises(OSError, match="bad"), kit.said_in_words():
        raise OSError(errno.EIO, "bad")


def test_a_place_that_cannot_be_is_told_before_the_work(tmp_path):
    for place in (tmp_path, tmp_path / "missing" / "a.json"):
        with pytest.raises(UsageError):
            kit.check_place(place)


def test_a_full_disk_is_told_before_the_work(tmp_path):
    with pytest.raises(SpaceShort, match="free, this needs"), kit.work_folder(tmp_path, 1 << 60):
        raise AssertionError
    assert list(tmp_path.iterdir()) == []


def test_a_work_folder_is_gone_whatever_happens(tmp_path):
    def stopped() -> None:
        with kit.work_folder(tmp_path, 0) as place:
            (place / "file").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert list(tmp_path.iterdir()) == []


def test_a_bench_that_fails_writes_nothing(tmp_path):
    def failing() -> None:
        with kit.bench("test", tmp_path / "a.json", quick=True) as run:
            run.add("a", 1.0, "s", "lower")
            raise UsageError("wrong", remedy="Do it right.")

    with pytest.raises(typer.Exit):
        failing()
    assert list(tmp_path.iterdir()) == []


def test_work_beside_a_bench_is_noted(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    for load, is_noted in ((0.9, False), (1.5, True)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        with kit.bench("test", None, quick=False, shows=False) as run:
            pass
        assert ["other work goes on" in note for note in run.results.notes] == [True] * is_noted
