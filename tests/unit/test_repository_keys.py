"""Keys, descriptor, and who may open what."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import orjson
import pytest

from mover.clock import SystemClock
from mover.errors import Damaged, FormatUnsupported, MoverError, RepositoryMissing, TargetExists, WrongKey
from mover.repository import layout
from mover.repository.keys import Descriptor, ScryptCost, Secrets, decode_descriptor, unwrap, wrap
from mover.repository.layout import Cipher
from mover.repository.repository import Repository
from mover.storage.memory import MemoryStore
from tests.support.repositories import CHEAP, backup, blocks_of, flip, make, names, open_in, overwrite, restore

SECRETS = Secrets(b"r" * 16, Cipher.AES_256_GCM, b"k" * 16, b"i" * 32, {b"k" * 16: b"d" * 32})


@pytest.mark.parametrize("passphrase", ["secret", None])
async def test_a_repository_is_made_once_and_opened_again(passphrase: str | None, tmp_path: Path):
    store = await make(passphrase=passphrase)
    with pytest.raises(TargetExists):
        await make(store, passphrase=passphrase)
    repository = await open_in(store, tmp_path, passphrase=passphrase)
    assert repository.is_encrypted is (passphrase is not None)
    await repository.close()


async def test_no_repository_is_made_over_one_that_lost_its_descriptor(tmp_path: Path):
    for folder in ("points/", "packs/"):
        store = await make()
        await store.delete("repository.json")
        await store.create(f"{folder}ab/cd", [b"what is left"])
        with pytest.raises(Damaged, match="of the repository is gone"):
            await make(store)
        with pytest.raises(Damaged, match=f"{folder}ab/cd is not"):
            await open_in(store, tmp_path)
    half_made = await make()
    await half_made.delete("repository.json")
    await make(half_made)


async def test_the_shipped_cost_of_a_guess_is_64_mib(tmp_path: Path):
    assert 128 * ScryptCost().n * ScryptCost().r == 64 << 20


async def test_nothing_there_is_said_to_be_nothing(tmp_path: Path):
    with pytest.raises(RepositoryMissing, match="no repository"):
        await open_in(MemoryStore(), tmp_path)


async def test_a_wrong_passphrase_opens_nothing(tmp_path: Path):
    store = await make(passphrase="right")
    for wrong in ("wrong", "", "right "):
        with pytest.raises(WrongKey, match="passphrase"):
            await open_in(store, tmp_path, passphrase=wrong)
    with pytest.raises(WrongKey, match="no passphrase was given"):
        await open_in(store, tmp_path, passphrase=None)


async def test_a_passphrase_is_the_same_however_it_is_composed(tmp_path: Path):
    store = await make(passphrase="caf\u00e9")
    await (await open_in(store, tmp_path, passphrase="cafe\u0301")).close()


async def test_a_downgrade_is_refused(tmp_path: Path):
    store = await make(passphrase="secret")
    await (await open_in(store, tmp_path, passphrase="secret")).close()
    repository_id = decode_descriptor(store._objects[layout.DESCRIPTOR].data).repository_id
    forged = Descriptor(repository_id, Cipher.NONE, "2026-01-01T00:00:00Z")
    overwrite(store, layout.DESCRIPTOR, forged.encode(Secrets.without_encryption(repository_id)))
    with pytest.raises(WrongKey, match="passphrase was given"):
        await open_in(store, tmp_path, passphrase="secret")
    with pytest.raises(WrongKey, match="has seen it encrypted"):
        await open_in(store, tmp_path, passphrase=None)


async def test_a_newer_format_and_unknown_features_are_refused_with_what_to_do(tmp_path: Path):
    store = await make()
    whole = orjson.loads(store._objects[layout.DESCRIPTOR].data)
    for change, words in (({"version": 2}, "format 2"), ({"needs_to_read": ["tape"]}, "tape")):
        overwrite(
            store,
            layout.DESCRIPTOR,
            orjson.dumps(whole | change, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE),
        )
        with pytest.raises(FormatUnsupported, match=words) as refused:
            await open_in(store, tmp_path)
        assert "newer version" in refused.value.remedy


async def test_a_feature_needed_to_write_forbids_writing_only(tmp_path: Path):
    store = await make(passphrase=None)
    repository_id = decode_descriptor(store._objects[layout.DESCRIPTOR].data).repository_id
    newer = Descriptor(repository_id, Cipher.NONE, "2026-01-01T00:00:00Z", needs_to_write=("tape",))
    overwrite(store, layout.DESCRIPTOR, newer.encode(Secrets.without_encryption(repository_id)))
    repository = await open_in(store, tmp_path, passphrase=None)
    assert await repository.points() == []
    with pytest.raises(FormatUnsupported, match="written to"):
        await repository.open_session(points=[])
    await repository.close()


@pytest.mark.parametrize("passphrase", ["secret", None])
async def test_each_flipped_byte_of_descriptor_and_key_file_is_refused(passphrase: str | None, tmp_path: Path):
    store = await make(passphrase=passphrase)
    for name in names(store):
        whole = store._objects[name].data
        for at in range(len(whole)):
            flip(store, name, at, 1 << (at % 7))
            with pytest.raises((Damaged, FormatUnsupported, WrongKey)):
                await open_in(store, tmp_path / "cache", passphrase=passphrase)
            overwrite(store, name, whole)
    await (await open_in(store, tmp_path / "cache", passphrase=passphrase)).close()


async def test_a_key_file_that_is_gone_or_foreign_is_named(tmp_path: Path):
    store, other = await make(), await make()
    (key,) = names(store, "keys/")
    (foreign,) = names(other, "keys/")
    overwrite(store, key, other._objects[foreign].data)
    with pytest.raises(Damaged, match=key):
        await open_in(store, tmp_path)
    del store._objects[key]
    with pytest.raises(Damaged, match="key file is gone"):
        await open_in(store, tmp_path)


async def test_a_second_key_reads_the_old_and_seals_the_new(tmp_path: Path):
    store = await make()
    repository = await open_in(store, tmp_path)
    blocks = blocks_of(1, 10)
    await backup(repository, blocks, "p1")
    first = repository._tools.secrets
    later = Secrets(
        first.repository_id, first.cipher, b"n" * 16, first.id_secret, {b"n" * 16: b"e" * 32, **first.data_secrets}
    )
    await store.create(
        layout.key_name(b"n" * 16), [wrap(later, "correct horse", created_at="2099-01-01T00:00:00Z", cost=CHEAP)]
    )
    await repository.close()
    repository = await open_in(store, tmp_path)
    made = await backup(repository, blocks, "p2")
    assert set(made.kinds) == {"zero", "known"}
    await backup(repository, blocks_of(2, 10), "p3")
    assert await restore(repository, "p1") == blocks
    assert await restore(repository, "p3") == blocks_of(2, 10)
    assert repository._tools.secrets.key_id == b"n" * 16
    await repository.close()


def test_absurd_scrypt_parameters_are_not_run():
    too_dear, unknown_to_scrypt = ScryptCost(n=1 << 20, r=16), ScryptCost(n=1 << 16, r=1)
    for cost in (ScryptCost(n=1 << 30), ScryptCost(n=3), ScryptCost(p=99), too_dear, unknown_to_scrypt):
        with pytest.raises(Damaged, match="absurd"):
            cost.check("keys/x.json")


def test_secrets_do_not_show():
    text = repr(SECRETS)
    assert "iiii" not in text
    assert "dddd" not in text


def test_wrapping_is_bound_to_repository_and_key():
    stored = wrap(SECRETS, "secret", created_at="2026-01-01T00:00:00Z", cost=CHEAP)
    name = layout.key_name(b"k" * 16)
    assert unwrap(name, stored, "secret", b"r" * 16) == (b"k" * 16, b"i" * 32, b"d" * 32)
    with pytest.raises(Damaged):
        unwrap(name, stored, "secret", b"q" * 16)
    with pytest.raises(Damaged):
        unwrap(layout.key_name(b"j" * 16), stored, "secret", b"r" * 16)


async def test_two_makers_of_one_repository_make_one():
    store = MemoryStore()
    clock = SystemClock()
    outcomes = await asyncio.gather(
        *(Repository.init(store, passphrase="x", clock=clock, cost=CHEAP) for _ in range(3)), return_exceptions=True
    )
    made = [one for one in outcomes if isinstance(one, str)]
    assert len(made) == 1
    assert all(isinstance(one, TargetExists) for one in outcomes if not isinstance(one, str))
    assert all(isinstance(one, str | MoverError) for one in outcomes)


async def test_the_cache_folder_may_vanish_between_uses(tmp_path: Path):
    store = await make()
    repository = await open_in(store, tmp_path / "cache")
    await backup(repository, blocks_of(1, 10), "p1")
    await repository.close()
    shutil.rmtree(tmp_path / "cache")
    repository = await open_in(store, tmp_path / "cache")
    assert await restore(repository, "p1") == blocks_of(1, 10)
    await repository.close()
