"""The demo: what it must never touch."""

from __future__ import annotations

from mover.tour.demo import read_settings


def test_the_demo_knows_its_own_lab_only(tmp_path, monkeypatch):
    """A shell that is set up for the real cluster must not lend it to a demo."""
    monkeypatch.setenv("MOVER_PRISM__URL", "https://real:9440")
    monkeypatch.setenv("MOVER_REPOSITORY__URL", "/backup/real")
    file = tmp_path / "mover.yaml"
    file.write_text("prism: {url: 'https://127.0.0.1:9440'}\nrepository: {url: /lab/repository}\n")
    settings = read_settings(file)
    assert (settings.prism.url, settings.repository.url) == ("https://127.0.0.1:9440", "/lab/repository")
