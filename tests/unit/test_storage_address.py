"""Addresses and options as people write them, right and wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from mover.clock import FakeClock
from mover.errors import ConfigError, StoreUnreachable, UnknownSetting, UsageError
from mover.storage.address import BucketAddress, FolderAddress, parse_address, parse_s3_options
from mover.storage.stack import open_store


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("/backup/repo", FolderAddress(Path("/backup/repo"))),
        ("backup", FolderAddress(Path("backup"))),
        ("file:///backup/my%20repo", FolderAddress(Path("/backup/my repo"))),
        ("~/repo", FolderAddress(Path.home() / "repo")),
        ("s3://bucket", BucketAddress("bucket", "")),
        ("s3://my.bucket/a/b-c/", BucketAddress("my.bucket", "a/b-c")),
        ("S3://bucket/x", BucketAddress("bucket", "x")),
    ],
)
def test_addresses(text: str, address: object) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("  ", "empty"),
        ("s3:bucket", "two slashes"),
        ("s3://", "cannot be the name of a bucket"),
        ("s3://-bad/x", "cannot be the name of a bucket"),
        ("s3://key:secret@bucket/x", "must not carry a secret"),
        ("s3://bucket/a//b", "cannot be a prefix"),
        ("s3://bucket/a b", "cannot be a prefix"),
        ("file://server/share", "names no folder of this machine"),
        ("az://container/x", "Azure .* later version"),
        ("gs://bucket/x", "Google Cloud Storage .* later version"),
        ("sftp://host/x", "not a kind of store"),
        ("~nobody-of-that-name/repo", "home of a user"),
    ],
)
def test_wrong_addresses_are_explained(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        parse_address(text)
    assert error.value.remedy


def test_a_secret_in_an_address_is_not_repeated() -> None:
    with pytest.raises(UsageError) as error:
        parse_address("s3://key:hunter2@bucket/x")
    assert "hunter2" not in str(error.value.as_dict())


def test_options_become_values() -> None:
    options = parse_s3_options(
        {
            "endpoint": "http://127.0.0.1:8333",
            "allow_http": "True",
            "path_style": "no",
            "create_only": "off",
            "list_lag": "2s",
            "access_key_id": " A ",
            "secret_access_key": "S",
        }
    )
    assert (options.allow_http, options.path_style, options.create_only) == (True, False, False)
    assert options.list_lag_s == 2.0
    assert options.access_key_id == "A"
    assert parse_s3_options({}).create_only


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"acces_key": "x"}, UnknownSetting, "access_key_id"),
        ({"zzz": "x"}, UnknownSetting, "Known: endpoint"),
        ({"allow_http": "maybe"}, ConfigError, "allow_http: true"),
        ({"access_key_id": "x"}, ConfigError, "secret_access_key"),
        ({"secret_access_key": "x"}, ConfigError, "access_key_id"),
        ({"endpoint": "store.example"}, ConfigError, "https://host"),
        ({"endpoint": "http://store.example"}, ConfigError, "allow_http: true"),
        ({"endpoint": "https://key:secret@store.example"}, ConfigError, "secret_access_key"),
    ],
)
def test_wrong_options_are_explained(options: dict[str, str], kind: type[ConfigError], said: str) -> None:
    with pytest.raises(kind) as error:
        parse_s3_options(options)
    assert said in error.value.remedy


async def test_a_folder_takes_no_options(tmp_path: Path) -> None:
    with pytest.raises(UnknownSetting, match="endpoint") as error:
        await open_store(str(tmp_path), {"endpoint": "https://x"}, clock=FakeClock())
    assert "no options" in error.value.remedy


async def test_a_folder_is_made_only_when_asked(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b"
    with pytest.raises(StoreUnreachable):
        await open_store(str(place), {}, clock=FakeClock())
    assert not (tmp_path / "a").exists()
    store = await open_store(str(place), {}, clock=FakeClock(), create=True)
    await store.create("x", [b"x"])
    await store.close()
    assert (place / "x").read_bytes() == b"x"


async def test_a_file_in_the_way_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreUnreachable):
            await open_store(str(place), {}, clock=FakeClock(), create=True)
