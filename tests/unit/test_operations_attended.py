"""A job runs in the repository that it was ordered for, or says why not."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from mover.config import RepositorySettings
from mover.errors import UsageError
from mover.operations import attended as attending
from mover.operations.attended import attended
from mover.operations.request import REPOSITORY, place_of


def place(url: str, **store: str) -> str:
    return place_of(RepositorySettings(url=url, store=store))


async def given(monkeypatch, ours: str, values: dict) -> dict:
    async def operation(_node, request, _steps):
        return dict(request)

    async def settle(_node, job):
        return [SimpleNamespace(reason=f"owed by {job}")]

    monkeypatch.setattr(attending, "settle", settle)
    node = SimpleNamespace(
        settings=SimpleNamespace(repository=RepositorySettings(url=ours)),
        board=SimpleNamespace(pulse=SimpleNamespace(running=lambda *_: nullcontext())),
    )
    return await attended(node, "backup", operation, values, SimpleNamespace(job_id="4f70"))


async def test_a_job_for_another_repository_is_refused_and_cleaned_up(monkeypatch):
    with pytest.raises(UsageError, match="ordered for the repository /backup/b") as caught:
        await given(monkeypatch, "/backup/a", {"vm_name": "web01", REPOSITORY: "/backup/b"})
    assert "--repository" in caught.value.remedy
    assert caught.value.facts["owed"] == ["owed by 4f70"]


async def test_the_same_repository_may_be_written_in_several_ways(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for ours in ("ahv", "./ahv/", str(tmp_path / "ahv"), f"file://{tmp_path}/ahv"):
        values = {"vm_name": "web01", REPOSITORY: place("ahv")}
        assert await given(monkeypatch, ours, values) == {"vm_name": "web01"}
    assert place("s3://bucket/ahv/") == place("s3://bucket/ahv")


def test_the_same_bucket_of_two_servers_is_two_repositories():
    here = place("s3://bucket/ahv", endpoint="https://here:9000")
    assert here == place("s3://bucket/ahv/", endpoint="https://here:9000/")
    assert len({here, place("s3://bucket/ahv", endpoint="https://there:9000"), place("s3://bucket/ahv")}) == 3


async def test_a_job_of_an_older_version_names_none(monkeypatch):
    assert await given(monkeypatch, "/backup/a", {"vm_name": "web01"}) == {"vm_name": "web01"}
