"""Logs carry job, VM and disk, and never a secret."""

import asyncio
import io
import json
import logging

import pytest

from mover import logs
from mover.config import LogSettings


@pytest.fixture
def lines(request):
    stream = io.StringIO()
    saved = logging.getLogger().handlers[:], logging.getLogger().level
    logs.configure(LogSettings(format="json", level="info"), secrets=["hunter2-and-more"], stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logging.getLogger().handlers[:], level = saved
    logging.getLogger().setLevel(level)


async def test_context_reaches_child_tasks_and_ends_with_the_block(lines):
    log = logs.get("test")

    async def child():
        log.info("inside")

    with logs.bind(job="j1", vm="web01", disk="scsi.0"):
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
    log.info("outside")
    inside, outside = lines()
    assert (inside["job"], inside["vm"], inside["disk"]) == ("j1", "web01", "scsi.0")
    assert "job" not in outside


@pytest.mark.parametrize(
    "fields",
    [
        {"password": "abc"},
        {"Authorization": "Basic YWRtaW46c2VjcmV0"},
        {"headers": {"Cookie": "JSESSIONID=1"}},
        {"note": "sent Basic YWRtaW46c2VjcmV0 to it"},
        {"url": "https://admin:topsecret@pe:9440/"},
        {"note": "the value hunter2-and-more stands in the middle"},
        {"items": ["hunter2-and-more"]},
    ],
)
def test_secrets_are_masked_wherever_they_stand(lines, fields):
    logs.get("test").warning("event", **fields)
    text = json.dumps(lines())
    assert logs.MASK in text
    for secret in ("YWRtaW46", "JSESSIONID=1", "topsecret", "hunter2", '"abc"'):
        assert secret not in text


def test_libraries_log_in_the_same_form(lines):
    logging.getLogger("some.library").warning("hello hunter2-and-more")
    (line,) = lines()
    assert line["event"] == f"hello {logs.MASK}"
    assert line["level"] == "warning"


def test_a_line_has_its_fields_whatever_their_names_and_the_traceback(lines):
    try:
        raise ValueError("deep inside")
    except ValueError:
        logs.get("test").exception("it broke 100%s", name="n", message="m", args=[1])
    (line,) = lines()
    assert (line["event"], line["level"], line["name"], line["message"], line["args"]) == (
        *("it broke 100%s", "error", "n", "m"),
        [1],
    )
    assert "ValueError: deep inside" in line["exception"]
    assert not {"exc_info", "_record"} & set(line)
