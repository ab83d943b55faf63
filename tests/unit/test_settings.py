"""Settings: precedence, secrets, and errors that name the setting and the remedy."""

import errno
import os
import re
from pathlib import Path

import pytest

from mover.config import AUTO, Settings
from mover.errors import ConfigError, UnknownSetting, UsageError
from mover.settings import load, setting_names
from mover.units import MIB

REFERENCE = Path(__file__).parents[2] / "deploy" / "REFERENCE.md"


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "mover.yaml"
        path.write_text(text)
        return path

    return write


def test_later_sources_win(file):
    path = file("node: {name: from-file}\nprism: {url: file, username: file}\ndata: {level: 3}\n")
    environment = {"MOVER_PRISM__URL": "environment", "MOVER_PRISM__USERNAME": "environment"}
    settings = load(path, environment=environment, flags={"prism.username": "flag", "data.level": None})
    assert settings.node.name == "from-file"
    assert (settings.prism.url, settings.prism.username) == ("environment", "flag")
    assert settings.data.level == 3


def test_a_secret_in_a_later_source_wins_over_the_file_of_an_earlier_one(file, tmp_path):
    (tmp_path / "old").write_text("old")
    text = f"prism: {{password_file: {tmp_path / 'old'}}}\nrepository: {{passphrase_file: {tmp_path / 'old'}}}\n"

    def secrets(environment, flags):
        settings = load(file(text), environment=environment, flags=flags)
        return [one.get_secret_value() for one in (settings.prism.password, settings.repository.passphrase)]

    assert secrets({"MOVER_PRISM__PASSWORD": "new"}, {}) == ["new", "old"]
    assert secrets({}, {"repository.passphrase": "typed"}) == ["old", "typed"]
    assert secrets({"MOVER_PRISM__PASSWORD": ""}, {}) == ["old", "old"], "empty variables are none"
    (tmp_path / "newer").write_text("newer")
    files = {"prism.password_file": str(tmp_path / "newer")}
    assert secrets({"MOVER_PRISM__PASSWORD": "new"}, files) == ["newer", "old"]


def test_empty_is_as_if_never_set(file):
    path = file("node: {name: from-file}\nprism: {ca_file: /nonexistent, password_file: ''}\n")
    settings = load(path, environment={"MOVER_NODE__NAME": ""}, flags={"prism.ca_file": ""})
    assert (settings.node.name, settings.prism.ca_file, settings.prism.password_file) == ("node1", None, None)
    with pytest.raises(UnknownSetting):
        load(path, environment={}, flags={"prism.cafile": ""})


def test_secrets_from_files_and_folder_lose_their_newline_and_never_show(tmp_path):
    (tmp_path / "phrase").write_text("open sesame\n")
    (tmp_path / "mover_prism__password").write_text("from-folder\n")
    environment = {
        "MOVER_SECRETS_DIR": str(tmp_path),
        "MOVER_REPOSITORY__PASSPHRASE_FILE": str(tmp_path / "phrase"),
    }
    settings = load(environment=environment)
    assert settings.repository.passphrase.get_secret_value() == "open sesame"
    assert settings.prism.password.get_secret_value() == "from-folder"
    assert "sesame" not in repr(settings)
    assert "from-folder" not in repr(settings)


def test_sizes_durations_and_lists_are_read_as_written(file):
    path = file("data: {budget: 256 MiB}\nprism: {snapshot_life: 30d}\n")
    settings = load(path, environment={"MOVER_BACKUP__PRE_SNAPSHOT__COMMAND": '["sync", "-f"]'})
    assert settings.data.budget == 256 * MIB
    assert settings.prism.snapshot_life == 30 * 86400
    assert settings.backup.pre_snapshot.command == ["sync", "-f"]


def test_store_options_are_free(file):
    settings = load(file("repository: {store: {endpoint: 'http://127.0.0.1:1', region: here}}\n"), environment={})
    assert settings.repository.store == {"endpoint": "http://127.0.0.1:1", "region": "here"}


@pytest.mark.parametrize(
    ("environment", "kind", "said", "remedy"),
    [
        ({"MOVER_PRISM__URRL": "x"}, UnknownSetting, "prism.urrl", "prism.url"),
        ({"MOVER_PRISMA": "x"}, UnknownSetting, "prisma", "prism"),
        ({"MOVER_DATA__LEVEL": "fast"}, ConfigError, "data.level", "data.level"),
        ({"MOVER_DATA__BLOCK_SIZE": "3q"}, ConfigError, "data.block_size", "data.block_size"),
        ({"MOVER_DATA__BLOCK_SIZE": "3MiB"}, ConfigError, "power of two", "1MiB"),
        ({"MOVER_DATA__BLOCK_SIZE": "0"}, ConfigError, "data.block_size", "data.block_size"),
        ({"MOVER_DATA__BLOCK_SIZE": "automatic"}, ConfigError, "data.block_size", "data.block_size"),
        ({"MOVER_SERVE__RECONCILE_EVERY": "0"}, ConfigError, "greater than or equal to 1", "serve.reconcile_every"),
        ({"MOVER_REPOSITORY__HEARTBEAT": "0s"}, ConfigError, "greater than or equal to 1", "repository.heartbeat"),
        ({"MOVER_PRISM__PASSWORD_FILE": "/nonexistent"}, ConfigError, "/nonexistent", "rights"),
        ({"MOVER_PRISM": "x", "MOVER_PRISM__URL": "y"}, ConfigError, "prism", "nested"),
    ],
)
def test_what_is_wrong_is_named_with_its_remedy(environment, kind, said, remedy):
    with pytest.raises(kind) as caught:
        load(environment=environment)
    assert said in caught.value.message
    assert remedy in caught.value.remedy
    assert isinstance(caught.value, UsageError)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["- a\n- b\n", "prism: [", "\x00"])
def test_a_file_that_is_no_settings_is_refused(file, text):
    with pytest.raises(ConfigError) as caught:
        load(file(text), environment={})
    assert "mover.yaml" in caught.value.message


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="There is no file"):
        load(tmp_path / "none.yaml", environment={})


@pytest.mark.parametrize(("user", "words"), [(10001, "sudo mover"), (0, "without the right to read others' files")])
def test_a_file_of_another_user_is_told_and_nothing_dangerous_to_type(file, monkeypatch, user, words):
    """Neither of a folder that others need, nor away from root's daemon."""

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    settings = file("node: {name: n}\n")
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(ConfigError, match=r"mover\.yaml cannot be read: Permission denied") as caught:
        load(settings, environment={})
    assert ("chown" in caught.value.remedy) is (user == 0)
    assert words in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "told", "first"),
    [("auto", AUTO, MIB // 2), ("256KiB", 256 << 10, 256 << 10), (4 * MIB, 4 * MIB, 4 * MIB)],
)
def test_the_size_of_blocks_is_a_size_or_auto(text, told, first):
    data = load(environment={}, flags={"data.block_size": text}).data
    assert (data.block_size, data.first_block_bytes) == (told, first)


def test_every_setting_says_why():
    names = list(setting_names())
    assert "prism.url" in names
    rows = dict(re.findall(r"^\| `([a-z0-9_.]+)` \|[^|]*\| (.{15,}) \|$", REFERENCE.read_text(), re.MULTILINE))
    assert [name for name in names if name not in rows] == []
    assert Settings().data.block_size == MIB // 2


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("node:\n  name: a: b\n", "line 2, column 10"),
        ("limits: [1,\n", "line 2, column 1"),
        ("node:\n\tname: x\n", "line 2, column 1"),
        ("node: {name: 'x\n", "line 2, column 1"),
        ("node:\n  name: \x01\n", "line 2, column 9"),
        ("- a\nnode: x\n", "line 2, column 1"),
    ],
)
def test_a_slip_in_the_file_is_told_in_one_line_with_its_place(file, text, place):
    path = file(text)
    with pytest.raises(ConfigError) as caught:
        load(path, environment={})
    assert "\n" not in caught.value.message
    assert caught.value.message.startswith(f"{path} is not YAML: {place}: ")
    assert "quotes" in caught.value.remedy


@pytest.mark.parametrize("value", ["*hunter2", "!hunter2 x", "%hunter2", "{hunter2: [}"])
def test_a_slip_never_shows_what_may_be_a_secret(file, value):
    with pytest.raises(ConfigError) as caught:
        load(file(f"prism:\n  password: {value}\n"), environment={})
    assert "hunter2" not in str(caught.value.as_dict())


def test_bytes_that_are_no_text_and_a_slip_in_the_environment(tmp_path):
    path = tmp_path / "mover.yaml"
    path.write_bytes(b"node: {name: \xff}\n")
    with pytest.raises(ConfigError, match="byte 13 is 0xff"):
        load(path, environment={})
    with pytest.raises(ConfigError, match="MOVER_BACKUP__PRE_SNAPSHOT__COMMAND is not YAML: line 1, column 4"):
        load(environment={"MOVER_BACKUP__PRE_SNAPSHOT__COMMAND": "[a,"})
