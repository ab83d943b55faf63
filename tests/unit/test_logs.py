"""Logs carry job, VM and disk, and never a secret."""

import asyncio
import io
import json
import logging
from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

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


# --- fields that are not text ---

SECRET = st.text(st.characters(codec="utf-8"), min_size=6, max_size=20).map(lambda text: f"Zq{text}qZ")


@dataclass
class Account:
    user: str
    note: str


class Model(BaseModel):
    note: str


Pair = namedtuple("Pair", "note rest")
HOLDERS = [
    lambda secret: secret,
    lambda secret: f"before {secret} after",
    lambda secret: secret.encode(),
    lambda secret: bytearray(secret.encode()),
    lambda secret: memoryview(secret.encode()),
    lambda secret: {secret},
    lambda secret: frozenset([secret.encode()]),
    lambda secret: {secret: 1},
    lambda secret: {secret.encode(): b"x"},
    lambda secret: (secret, Pair(secret, None)),
    lambda secret: Account("u", secret),
    lambda secret: Model(note=secret),
    lambda secret: SimpleNamespace(note=[secret]),
    lambda secret: ValueError(secret),
    lambda secret: OSError(5, secret, secret),
    lambda secret: ExceptionGroup(secret, [KeyError(secret), ValueError(secret.encode())]),
    lambda secret: SecretStr(secret).get_secret_value,
]
VALUE = st.recursive(
    st.sampled_from(HOLDERS),
    lambda inner: st.one_of(
        inner.map(lambda make: lambda secret: [make(secret)]),
        inner.map(lambda make: lambda secret: {"a": make(secret), 3: None}),
        inner.map(lambda make: lambda secret: (1, make(secret))),
        inner.map(lambda make: lambda secret: SimpleNamespace(inside=make(secret))),
    ),
    max_leaves=3,
)


def written(form, secret, write):
    stream, logger = io.StringIO(), logging.Logger("alone")
    logs.configure(LogSettings(format=form, level="info"), secrets=[secret], stream=stream)
    logger.handlers = logging.getLogger().handlers
    log = logs.Log("alone")
    log._logger = logger
    write(log)
    return stream.getvalue()


@pytest.mark.usefixtures("lines")
@pytest.mark.parametrize("form", ["json", "text"])
@given(secret=SECRET, make=VALUE)
@limits(max_examples=60, deadline=None)
def test_no_secret_shows_whatever_holds_it(form, secret, make):
    def write(log):
        log.warning("event", field=make(secret))
        try:
            raise RuntimeError(make(secret))
        except RuntimeError:
            log.exception("it broke")

    text = written(form, secret, write)
    shown = text if form == "text" else "\n".join(every_text([json.loads(line) for line in text.splitlines()]))
    spellings = {secret, repr(secret)[1:-1], repr(secret.encode())[2:-1], json.dumps(secret)[1:-1]}
    assert [spelling for spelling in spellings if spelling in shown] == []


def every_text(value):
    if isinstance(value, dict):
        return [text for pair in value.items() for item in pair for text in every_text(item)]
    if isinstance(value, list):
        return [text for item in value for text in every_text(item)]
    return [str(value)]


@pytest.mark.parametrize(
    "value",
    [
        Account("u", "harmless"),
        {"inner": [{"Password": b"abcdef"}]},
        [{b"api_token": "abcdef"}],
        "Account(user='u', password='abc def')",
        'answered {"access_key": "abc\\"def", "x": 1}',
        SimpleNamespace(passphrase=b"abcdef"),
        b"Authorization: Basic YWJjZGVm",
        KeyError("https://u:abcdef@pe/"),
    ],
    ids=str,
)
def test_what_is_named_a_secret_is_masked_inside_of_things(lines, value):
    logs.get("test").warning("event", field=value)
    text = json.dumps(lines())
    assert "abc" not in text
    assert "YWJjZGVm" not in text
    assert logs.MASK in text or "harmless" in text


def test_numbers_stay_numbers_and_other_things_are_readable(lines):
    logs.get("test").warning(
        "event", n=1, x=0.5, none=None, yes=True, bytes=b"\xffabc", path=ValueError("why"), s={2, 1}
    )
    (line,) = lines()
    assert (line["n"], line["x"], line["none"], line["yes"], line["bytes"]) == (1, 0.5, None, True, "\\xffabc")
    assert line["path"] == "ValueError('why')"
    assert line["s"] == [1, 2]


def test_a_number_that_is_the_secret_is_masked():
    assert "12345678" not in written("json", "12345678", lambda log: log.warning("event", field=12345678))


def test_a_thing_that_holds_itself_or_cannot_be_shown_is_logged_all_the_same(lines):
    class Mute:
        def __repr__(self):
            raise RuntimeError("no words")

    endless = ["hunter2-and-more"]
    endless.append(endless)
    logs.get("test").warning("event", endless=endless, mute=Mute())
    (line,) = lines()
    assert line["endless"][0] == logs.MASK
    assert line["mute"] == "Mute that cannot be shown: RuntimeError"


def test_a_line_that_cannot_be_made_is_named_and_not_shown():
    def write(_):
        logging.getLogger("some.library").warning("%d hunter2-and-more", "hunter2-and-more")

    text = written("json", "hunter2-and-more", write)
    assert text.startswith("A log line of some.library cannot be written: test_logs.py:")
    assert "hunter2" not in text
