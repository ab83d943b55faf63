"""Values put into a settings file: comments and all else stay, and what is unsafe is refused."""

from __future__ import annotations

import os

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as some

from mover.cli.settings_file import difference, edited, lines_of, read_text, replace, require_editable
from mover.errors import UsageError

VALUES = {"data.readers": 8, "repository.pack_size": "16MiB"}
TEXT = """\
# Our node.
node: {name: node1}
repository:   # where
    url: /backup   # the array
    passphrase_file: "/etc/secret"
data:
  # as measured
  readers: 2   # was 4
  level: 1
"""


def test_comments_order_and_layout_stay(tmp_path):
    after = edited(tmp_path / "m.yaml", TEXT, VALUES)
    assert after == TEXT.replace("readers: 2 ", "readers: 8 ").replace(
        "    url: /backup", "    pack_size: 16MiB\n    url: /backup"
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "data:\n  readers: 8\n"),
        ("node:\n  name: a", "node:\n  name: a\ndata:\n  readers: 8\n"),
        ("# nothing yet\n", "# nothing yet\ndata:\n  readers: 8\n"),
        ("data:\n# readers: 4\nlog: {}\n", "data:\n  readers: 8\n# readers: 4\nlog: {}\n"),
        ("data:\r\n  level: 3\r\n", "data:\r\n  readers: 8\r\n  level: 3\r\n"),
    ],
)
def test_a_value_finds_its_place(tmp_path, before, after):
    assert edited(tmp_path / "m.yaml", before, {"data.readers": 8}) == after


@pytest.mark.parametrize(
    "text",
    [
        "data: {readers: 4}\nlog: {level: info}\nrepository: &r {url: a}\nmore: *r\n",
        "data: {level: 1}\n",
        "base: &b\n  readers: 4\ndata: *b\n",
        "data: 3\n",
        "---\ndata:\n  level: 1\n...\n",
    ],
)
def test_what_cannot_be_changed_safely_is_refused_with_what_to_write(tmp_path, text):
    with pytest.raises(UsageError, match="without harm") as refused:
        edited(tmp_path / "m.yaml", text, {"data.readers": 8, "log.level": "debug"})
    assert "data.readers: 8" in refused.value.remedy


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("data:\n  level: 1\nrepository: {url: a}\n", "repository"),
        ("data: {level: 1}\nrepository: {url: a}\n", "data, repository"),
        ("base: &b\n  readers: 4\ndata: *b\n", "data"),
        ("{node: {name: a}}\n", "data, repository"),
    ],
)
def test_what_could_not_be_changed_is_named_with_what_to_do(tmp_path, text, named):
    with pytest.raises(UsageError, match=f"^The settings of {named} in .*without harm") as refused:
        require_editable(tmp_path / "m.yaml", text, VALUES)
    assert "one a line" in refused.value.remedy
    assert "--only" in refused.value.remedy


def test_sections_that_stay_may_be_written_in_any_way(tmp_path):
    require_editable(tmp_path / "m.yaml", TEXT, VALUES)


@given(
    some.dictionaries(
        some.sampled_from(["node", "data", "repository", "log"]),
        some.dictionaries(some.sampled_from(["a", "readers", "pack_size"]), some.integers(0, 99), min_size=1),
    ),
    some.booleans(),
)
def test_only_the_wanted_values_change(tmp_path_factory, content, is_flow):
    text = yaml.safe_dump(content, default_flow_style=is_flow)
    try:
        found = yaml.safe_load(edited(tmp_path_factory.getbasetemp() / "m.yaml", text, VALUES))
    except UsageError:
        assert is_flow or not content
        return
    for name, value in VALUES.items():
        section, key = name.split(".")
        content.setdefault(section, {})[key] = value
    assert found == content


def test_the_difference_shows_no_other_line(tmp_path):
    shown = difference(tmp_path / "m.yaml", TEXT, edited(tmp_path / "m.yaml", TEXT, VALUES))
    assert "+    pack_size: 16MiB" in shown
    assert "secret" not in shown


def test_the_lines_are_settings():
    assert yaml.safe_load(lines_of(VALUES)) == {"data": {"readers": 8}, "repository": {"pack_size": "16MiB"}}


def test_a_file_is_replaced_whole_with_its_rights_through_a_link(tmp_path):
    path, link = tmp_path / "m.yaml", tmp_path / "link.yaml"
    path.write_text(TEXT)
    path.chmod(0o640)
    link.symlink_to(path)
    replace(link, "data:\n  readers: 8\n")
    assert link.is_symlink()
    assert path.read_text() == "data:\n  readers: 8\n"
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(tmp_path)) == ["link.yaml", "m.yaml"]


def test_a_new_file_is_made(tmp_path):
    assert read_text(tmp_path / "new.yaml") == ""
    replace(tmp_path / "new.yaml", "data: {}\n")
    assert (tmp_path / "new.yaml").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a: [", b"- a list\n"])
def test_what_is_no_settings_file_is_refused_before_anything_is_measured(tmp_path, content):
    (tmp_path / "m.yaml").write_bytes(content)
    with pytest.raises(UsageError):
        read_text(tmp_path / "m.yaml")


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be written"):
        read_text(tmp_path / "nowhere" / "m.yaml")
    with pytest.raises(UsageError):
        read_text(tmp_path)
