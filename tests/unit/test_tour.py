"""The demo: what it must never touch."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from mover.tour.demo import read_settings
from mover.tour.labs import write_settings
from tests.support.commandline import invoke


def test_the_demo_knows_its_own_lab_only(tmp_path, monkeypatch):
    """A shell that is set up for the real cluster must not lend it to a demo."""
    monkeypatch.setenv("MOVER_PRISM__URL", "https://real:9440")
    monkeypatch.setenv("MOVER_REPOSITORY__URL", "/backup/real")
    file = tmp_path / "mover.yaml"
    file.write_text("prism: {url: 'https://127.0.0.1:9440'}\nrepository: {url: /lab/repository}\n")
    settings = read_settings(file)
    assert (settings.prism.url, settings.repository.url) == ("https://127.0.0.1:9440", "/lab/repository")


@pytest.mark.parametrize("words", [["demo", "--folder"], ["lab"]])
def test_a_folder_that_cannot_be_is_told(tmp_path, words):
    (tmp_path / "file").write_text("x")
    invoke(*words, str(tmp_path / "file")).refuses(7, "lab", "cannot use")


def test_what_the_lab_says_to_export_holds_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    running = SimpleNamespace(
        password="p",
        device_root=tmp_path,
        has_real_devices=False,
        element_url="https://127.0.0.1:9440",
        username="admin",
        ca_file=tmp_path / "ca.pem",
    )
    Path("lab").mkdir()
    assert write_settings(running, Path("lab")) == tmp_path / "lab" / "mover.yaml"
