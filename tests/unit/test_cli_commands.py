"""Parsing, help, errors and exit codes of the command line; nothing here needs a Prism."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os

import pytest
import typer

from mover.cli import run as running
from mover.cli.cluster import to_continue
from mover.cli.console import Console, first_error
from mover.cli.main import ORDER
from mover.cli.ordering import interrupted
from mover.cli.point_views import listed
from mover.cli.restore import Wish, _check, _pairs, about_restored
from mover.cli.tables import checks_table, points_table
from mover.cli.terminal import told
from mover.errors import Damaged, JobFailed, JobInterrupted, StoreFull, UsageError, WrongKey
from mover.hypervisor.nutanix.address import PrismAddress
from mover.hypervisor.nutanix.tls import rejected
from mover.model.machine import Consistency
from mover.model.point import PointSummary, ReadMode
from tests.support.commandline import invoke

COMMANDS = [
    *ORDER,
    "points show",
    "points delete",
    "bench tune",
    "bench plan",
    *(f"job {name}" for name in ("list", "show", "cancel", "retry")),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_within_eighty_columns(command):
    shown = invoke(*command.split(), "--help", COLUMNS="80")
    assert shown.code == 0, shown.err
    assert max(map(len, shown.out.splitlines())) <= 80
    name = command if command.startswith("job ") else command.split()[0]
    assert f"mover {name}" in shown.out.partition("Options:")[0].partition("\n")[2], "an example"


def test_the_overview_names_the_commands_in_their_order_each_with_a_whole_sentence():
    lines = invoke("--help", COLUMNS="80").out.partition("Commands:")[2].splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(ORDER)
    assert all(line.endswith(".") and not line.endswith("...") for line in lines)


@pytest.mark.parametrize("words", [["nonsense"], ["backup"], ["restore"], ["points", "--odd"], ["verify", "a", "b"]])
def test_what_cannot_be_parsed_is_a_usage_error(words):
    outcome = invoke(*words)
    assert outcome.code == 2
    assert "Try 'mover" in outcome.err


@pytest.mark.parametrize("words", [["nonsense"], ["backup"], ["points", "--odd"], ["bench", "plan", "--vms", "many"]])
def test_what_cannot_be_parsed_is_json_too(words):
    outcome = invoke(*words, "--json")
    assert outcome.code == 2
    assert outcome.json["error"]["code"] == "usage"
    assert outcome.json["error"]["remedy"].startswith("See: mover")
    assert outcome.json["error"]["remedy"].endswith("--help")
    assert not outcome.err


def test_settings_can_be_read_alone_and_nothing_is_touched(tmp_path):
    file = tmp_path / "mover.yaml"
    file.write_text(f"state_dir: {tmp_path / 'state'}\nprism: {{url: https://192.0.2.1, username: backup}}\n")
    good = invoke("check", "--settings", "--config", str(file), "--json")
    assert (good.code, good.json) == (0, {"settings": "ok"})
    file.write_text("prism: {usrname: backup}\n")
    invoke("check", "--settings", "--config", str(file)).refuses(2, "config.unknown-key", "prism.username")
    assert [path.name for path in tmp_path.iterdir()] == ["mover.yaml"]


def test_the_version():
    assert invoke("--version").out.startswith("mover ")


# --- restore: which options go together --------------------------------------------------------------


def wish(**given) -> Wish:
    empty = dict.fromkeys(("name", "disk", "to_vm", "slot", "to_file", "nics"))
    return Wish(**{"point": "p", **empty, "networks": (), "containers": (), "power_on": False, **given})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "where to restore"),
        ({"name": "a", "to_vm": "b"}, "where to restore"),
        ({"name": "a", "disk": "scsi.0"}, "--disk does not go with --name"),
        ({"to_vm": "a", "disk": "scsi.0", "power_on": True}, "--power-on does not go with --to-vm"),
        ({"to_file": "a", "slot": "scsi.0"}, "--slot does not go with --to-file"),
        ({"to_vm": "a"}, "which disk"),
        ({"name": "a", "nics": "odd"}, "odd"),
        ({"name": "  "}, "--name is blank"),
        ({"name": "a\nb"}, "--name has characters that cannot be shown"),
    ],
)
def test_wishes_that_contradict_themselves(given, said):
    with pytest.raises(UsageError, match=said):
        _check(wish(**given))


def test_wishes_that_hold():
    for given in (
        {"name": "a", "nics": "keep", "networks": ("a=b",), "containers": ("c",), "power_on": True},
        {"to_vm": "a", "disk": "scsi.0", "slot": "scsi.3", "containers": ("c",)},
        {"to_file": "a"},
    ):
        _check(wish(**given))


def test_a_restore_says_from_which_point(monkeypatch):
    from_where = {"point": "3f2a81c0", "point_vm": "web01", "frozen_at": "2026-01-31T12:00:00Z"}
    told_file = about_restored({"vm": "web01", **from_where, "path": "/tmp/disk.raw"}).plain
    assert told_file.startswith("from point 3f2a81c0 of web01, frozen 2026-01-3")
    assert told_file.endswith("\nto /tmp/disk.raw")
    into = about_restored({"vm": "db01", "vm_uuid": "u", **from_where}).plain
    assert "of web01" in into
    assert into.endswith("VM db01  u")
    assert about_restored({"vm": "db01", "vm_uuid": "u"}).plain == "VM db01  u", "a job of an older version"


def test_ctrl_c_speaks_of_what_was_cancelled():
    assert "no restore point" in interrupted(["backup", "backup"]).message
    assert "restore was cancelled" in interrupted(["restore"]).message


def test_jobs_that_are_to_be_continued_are_told_beside_orphans():
    assert to_continue(1).startswith("1 job was cut off and has")
    assert to_continue(2).startswith("2 jobs were cut off and have")


@pytest.mark.parametrize("words", [["list"], ["retry", "a"]])
def test_a_state_folder_that_cannot_be_made_is_told_in_words(words):
    invoke("job", *words, MOVER_STATE_DIR="/dev/null/state").refuses(2, "config", "/dev/null/state cannot be used")


def test_pairs():
    assert _pairs("--network", ("a=b", "c=d")) == {"a": "b", "c": "d"}
    assert _pairs("--container", ("fast",)) == {"*": "fast"}
    with pytest.raises(UsageError, match="no new name"):
        _pairs("--network", ("a",))


# --- errors as people and programs see them ------------------------------------------------------------


def fails(capsys, error: Exception, *, as_json: bool = False):
    async def work(_session):
        raise error

    root = logging.getLogger()
    handlers = root.handlers[:]
    with pytest.raises(typer.Exit) as ended:
        running.command(work, as_json=as_json)
    root.handlers[:] = handlers
    return ended.value.exit_code, capsys.readouterr()


@pytest.fixture(autouse=True)
def _bare(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_no_secret_of_the_settings_stands_in_a_library_s_line(capsys):
    secret = {"prism.password": "pass-1111", "repository.passphrase": "phrase-2222"}
    store = {"access_key_id": "AKID", "secret_access_key": "key-3333", "session_token": "token-4444"}

    async def work(_session):
        logging.getLogger("library").warning("sent %s", [*secret.values(), *store.values()])

    root = logging.getLogger()
    handlers = root.handlers[:]
    assignments = [f"{name}={value}" for name, value in secret.items()]
    running.command(work, assignments=[*assignments, f"repository.store={json.dumps(store)}"])
    root.handlers[:] = handlers
    assert "sent ['***', '***', 'AKID', '***', '***']" in capsys.readouterr().err


def test_a_foreseen_error_says_what_and_what_to_do(capsys):
    code, shown = fails(capsys, StoreFull("The store is full", remedy="Free space.", free_bytes=3, is_local=True))
    assert code == 5
    assert shown.err.splitlines() == [
        "error: The store is full  [storage.full]",
        "       free bytes: 3",
        "   do: Free space.",
    ]


def test_programs_get_the_error_as_json(capsys):
    code, shown = fails(capsys, Damaged("Pack p is damaged", remedy="Copy it back."), as_json=True)
    assert code == 6
    assert '"code": "repository.damaged"' in shown.out
    assert shown.err == ""


def test_an_error_in_a_task_group_is_the_foreseen_one(capsys):
    group = BaseExceptionGroup("", [ValueError("odd"), BaseExceptionGroup("", [StoreFull("full", remedy="free")])])
    assert isinstance(first_error(group), StoreFull)


def test_each_failure_of_several_has_its_own_remedy(capsys):
    one = {**StoreFull("full", remedy="Free space.").as_dict(), "job": "1", "facts": {"about": "backup of a"}}
    two = {**WrongKey("no key", remedy="Find it.").as_dict(), "job": "2", "facts": {"about": "backup of b"}}
    code, shown = fails(capsys, JobFailed("2 of 2 failed", remedy="See below.", failures=[one, two]))
    assert code == 7
    for words in (
        "backup of a: full  [storage.full]",
        "Free space.",
        "backup of b: no key  [repository.key]",
        "Find it.",
    ):
        assert words in shown.err


def test_a_defect_is_called_one(capsys):
    code, shown = fails(capsys, RuntimeError("odd"))
    assert code == 70
    assert "defect of mover" in shown.err
    code, shown = fails(capsys, RuntimeError("odd"), as_json=True)
    assert (code, json.loads(shown.out)["error"]["code"]) == (70, "mover")


def test_points_say_what_to_do_where_there_are_none_or_one_cannot_be_read(capsys):
    broken = PointSummary(
        "3f2a81c0", "u", "", 1.8e9, 1.8e9, 0, 0, 0, ReadMode.FULL, Consistency.CRASH, False, 0, "cut off"
    )
    listed(Console(as_json=False), [broken], None)
    assert "mover points delete" in capsys.readouterr().out
    listed(Console(as_json=False), [broken], "web1")
    assert "No restore point is of a VM web1." in capsys.readouterr().out
    listed(Console(as_json=True), [broken], None)
    row = json.loads(capsys.readouterr().out)["points"][0]
    said = {name: row.pop(name) for name in ("point", "vm_uuid", "problem")}
    assert said == {"point": "3f2a81c0", "vm_uuid": "u", "problem": "cut off"}
    assert len(row) == 9
    assert set(row.values()) == {None}, "what its name does not say is not invented"


def test_an_expired_certificate_is_to_be_renewed():
    expired = rejected(PrismAddress("prism"), why="certificate has expired", fingerprint="AB", is_pinned=False)
    assert expired.remedy.startswith("Give Prism a new certificate")


def test_a_full_disk_is_none(capsys):
    code, shown = fails(capsys, OSError(errno.ENOSPC, "No space left on device", "/lab/state.json"))
    assert code == 7
    assert "no room for /lab/state.json: No space left" in shown.err
    assert "[job.space]" in shown.err


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt(), 130), (JobInterrupted("cut", remedy="again"), 130), (asyncio.CancelledError(), 143)],
)
def test_interruptions_have_the_codes_of_shells(capsys, error, code):
    assert fails(capsys, error)[0] == code


@pytest.mark.parametrize("name", ["[brackets]", "[/brackets]", "[red]x[/red]", ":red_heart:", "100%s {vm}", "\\[x]"])
def test_names_are_shown_as_they_are(capsys, name):
    point = {"point": "3f2a81c0", "vm": name, "frozen_at": "2026-01-31T12:00:00Z", "mode": "full", "is_base": False}
    sizes = dict.fromkeys(("size_bytes", "bytes_read", "bytes_stored"), 1)
    Console(as_json=False).answer(None, points_table([{**point, **sizes}]))
    assert f" {name} " in capsys.readouterr().out


def test_a_pipe_gets_whole_lines_without_blanks_at_their_ends(capsys):
    long = {"subject": "lvm", "state": "problem", "what": "x " * 100 + "end", "remedy": "y " * 100 + "end"}
    Console(as_json=False).answer(None, checks_table([long, {**long, "subject": "md", "what": "short"}]))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert [line for line in lines if line != line.rstrip()] == []
    assert lines[1].endswith("x end")
    assert lines[2].endswith("y end")


def test_facts_that_the_sentence_holds_are_not_said_twice():
    assert list(told({"operation": "reading"}, "Reading of scsi.1 failed")) == []
    facts = {"near": ["web01", "db01"], "path": "/x", "is_odd": True, "none": None, "failures": [1]}
    assert list(told(facts, "Did you mean web01 or db01?")) == ["path: /x"]


def test_a_person_is_asked_once_for_the_passphrase(monkeypatch, capsys):
    seen = []

    async def work(session):
        seen.append(session.settings.repository.passphrase.get_secret_value())
        if not session.has_passphrase:
            raise WrongKey("locked", remedy="open")

    monkeypatch.setattr(Console, "can_ask", property(lambda _: True))
    monkeypatch.setattr(typer, "prompt", lambda *_, **__: "typed")
    running.command(work)
    assert seen == ["", "typed"]


def test_nobody_is_asked_where_nobody_sits(monkeypatch, capsys):
    monkeypatch.setattr(typer, "prompt", lambda *_, **__: pytest.fail("asked"))
    assert fails(capsys, WrongKey("locked", remedy="open"))[0] == 6


def test_settings_below_etc_that_this_user_may_not_look_for_are_a_mistake_in_words(monkeypatch, tmp_path):
    """A container as an ordinary user, with /etc/mover still root's."""

    class Shut(type(tmp_path)):
        def stat(self, *, follow_symlinks=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

        def open(self, *args, **kwargs):
            return self.stat()

        def read_text(self, *args, **kwargs):
            return self.stat()

    monkeypatch.setattr(running, "DEFAULT_FILES", (Shut("mover.yaml"), Shut("/etc/mover/mover.yaml")))
    outcome = invoke("points")
    assert outcome.code == 2, outcome.err
    assert "/etc/mover/mover.yaml cannot be read: Permission denied" in outcome.err
    assert "deploy/container/README.md" in outcome.err or "chown 0 /etc/mover/mover.yaml" in outcome.err
    assert "Traceback" not in outcome.err


def test_a_folder_in_place_of_the_settings_file_is_told(monkeypatch, tmp_path):
    """What container engines make of a file that is to be mounted and was not written yet."""
    place = tmp_path / "mover.yaml"
    place.mkdir()
    monkeypatch.setattr(running, "DEFAULT_FILES", (place,))
    outcome = invoke("points")
    assert outcome.code == 2, outcome.err
    assert f"{place} cannot be read: Is a directory" in outcome.err
    assert "Remove that folder" in outcome.err
