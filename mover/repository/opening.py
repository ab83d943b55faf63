"""Making a repository, and finding the way into one: descriptor, keys, no downgrade."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import orjson

from mover.clock import Clock, iso, secret_bytes
from mover.errors import (
    Damaged,
    MoverError,
    ObjectExists,
    ObjectMissing,
    RepositoryError,
    RepositoryMissing,
    TargetExists,
    WrongKey,
)
from mover.files import write_whole
from mover.repository import layout
from mover.repository.keys import (
    CIPHER_NAMES,
    Descriptor,
    ScryptCost,
    Secrets,
    decode_descriptor,
    unwrap,
    wrap,
)
from mover.repository.layout import Cipher
from mover.storage.protocol import Store


async def make(
    store: Store, *, passphrase: str | None, clock: Clock, cost: ScryptCost, helper: ThreadPoolExecutor
) -> Descriptor:
    """Key file first, descriptor last: there is a repository once the descriptor is there. Raises TargetExists."""
    if await store.info(layout.DESCRIPTOR) is not None:
        raise _exists()
    await _refuse_remains(store)
    repository_id, created_at = secret_bytes(layout.REPOSITORY_ID_BYTES), iso(clock.now())
    if passphrase is None:
        secrets = Secrets.without_encryption(repository_id)
    else:
        key_id = secret_bytes(layout.KEY_ID_BYTES)
        id_secret, data_secret = secret_bytes(layout.KEY_BYTES), secret_bytes(layout.KEY_BYTES)
        secrets = Secrets(repository_id, Cipher.AES_256_GCM, key_id, id_secret, {key_id: data_secret})
        work = partial(wrap, secrets, passphrase, created_at=created_at, cost=cost)
        key_file = await asyncio.get_running_loop().run_in_executor(helper, work)
        await store.create(layout.key_name(key_id), [key_file])
    descriptor = Descriptor(repository_id, secrets.cipher, created_at)
    try:
        await store.create(layout.DESCRIPTOR, [descriptor.encode(secrets)])
    except ObjectExists:
        raise _exists() from None
    return descriptor


def _exists() -> TargetExists:
    return TargetExists("There is a repository at this place already", remedy="Open it, or choose another place.")


async def _refuse_remains(store: Store) -> None:
    """Where points or packs are without the descriptor, a new repository would bury them. Raises Damaged."""
    for folder in (layout.POINTS, layout.PACKS):
        async for found in store.list(folder):
            raise Damaged(
                f"{layout.DESCRIPTOR} of the repository is gone ({store.traits.description}), {found.name} is not",
                remedy=f"Bring back {layout.DESCRIPTOR} from a copy of the repository; make a new one elsewhere.",
                object=layout.DESCRIPTOR,
            )


class Opened(NamedTuple):
    """What stands behind the descriptor, and this machine's folder for it."""

    descriptor: Descriptor
    secrets: Secrets
    folder: Path


def nothing() -> None:
    """For who has nothing to do meanwhile."""


async def enter(
    store: Store,
    *,
    passphrase: str | None,
    cache_dir: Path,
    helper: ThreadPoolExecutor,
    meanwhile: Callable[[], object] = nothing,
) -> Opened:
    """The way in. helper: the thread for what is slow by intent; meanwhile: what else to do while it is at work.

    Raises RepositoryMissing, WrongKey, FormatUnsupported, Damaged, StorageError.
    """
    descriptor = await read_descriptor(store)
    folder = cache_dir / descriptor.repository_id.hex()
    secrets = await open_secrets(store, descriptor, passphrase, helper, meanwhile)
    try:
        await asyncio.get_running_loop().run_in_executor(helper, remember, folder, descriptor)
    except OSError as error:
        raise unwritable(error) from error
    return Opened(descriptor, secrets, folder)


async def read_descriptor(store: Store) -> Descriptor:
    """Raises RepositoryMissing, Damaged, FormatUnsupported."""
    try:
        stored = await store.get(layout.DESCRIPTOR)
    except ObjectMissing:
        await _refuse_remains(store)
        raise RepositoryMissing(
            f"There is no repository at this place ({store.traits.description})",
            remedy="Check the address, or make one with mover init.",
        ) from None
    return decode_descriptor(stored)


async def open_secrets(
    store: Store,
    descriptor: Descriptor,
    passphrase: str | None,
    helper: ThreadPoolExecutor,
    meanwhile: Callable[[], object] = nothing,
) -> Secrets:
    """The secrets behind the passphrase; the descriptor is authenticated with them. Raises WrongKey, Damaged."""
    if descriptor.cipher is Cipher.NONE:
        if passphrase is not None:
            raise _downgraded("a passphrase was given, but the repository says that it is not encrypted")
        secrets = Secrets.without_encryption(descriptor.repository_id)
    elif passphrase is None:
        raise WrongKey(
            f"The repository ({store.traits.description}) is encrypted, and no passphrase was given",
            remedy="Set repository.passphrase_file, MOVER_REPOSITORY__PASSPHRASE, or answer the prompt.",
        )
    else:
        secrets = await _unlock(store, descriptor, passphrase, helper, meanwhile)
    descriptor.check_tag(secrets)
    return secrets


async def _unlock(
    store: Store,
    descriptor: Descriptor,
    passphrase: str,
    helper: ThreadPoolExecutor,
    meanwhile: Callable[[], object],
) -> Secrets:
    """All data keys that the passphrase opens; the newest key file's is used for new objects."""
    opened, problems = [], []
    names = [info.name async for info in store.list(layout.KEYS) if info.name.endswith(".json")]
    for name in names:
        stored = await store.get(name)
        work = partial(unwrap, name, stored, passphrase, descriptor.repository_id)
        unwrapping = asyncio.get_running_loop().run_in_executor(helper, work)
        meanwhile()
        try:
            found = await unwrapping
        except (Damaged, WrongKey) as error:
            problems.append(error)
        else:
            opened.append((orjson.loads(stored)["created_at"], *found))
    if not opened:
        raise _nothing_opened(problems, store.traits.description)
    opened.sort()
    _, key_id, id_secret, _ = opened[-1]
    data_secrets = {one[1]: one[3] for one in opened}
    return Secrets(descriptor.repository_id, descriptor.cipher, key_id, id_secret, data_secrets)


def _nothing_opened(problems: list[Damaged | WrongKey], where: str) -> MoverError:
    if any(isinstance(problem, WrongKey) for problem in problems):
        return WrongKey(
            f"The passphrase does not open the repository ({where})",
            remedy="Give the one that it was made with, by repository.passphrase_file or MOVER_REPOSITORY__PASSPHRASE.",
        )
    for problem in problems:
        return problem
    return Damaged(
        "The repository is encrypted, but its key file is gone",
        remedy="Bring back keys/ from a copy of the repository: without it nothing can be read.",
        object=layout.KEYS,
    )


def remember(folder: Path, descriptor: Descriptor) -> None:
    """Note that this repository is encrypted; refuse one that no longer is. Raises WrongKey."""
    note = folder / "known.json"
    cipher = CIPHER_NAMES[descriptor.cipher]
    try:
        known = orjson.loads(note.read_bytes()).get("cipher", cipher)
    except (FileNotFoundError, ValueError):
        known = None
    if known == CIPHER_NAMES[Cipher.AES_256_GCM] and descriptor.cipher is Cipher.NONE:
        raise _downgraded("this machine has seen it encrypted, and now it says that it is not")
    if known != cipher:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(note, orjson.dumps({"cipher": cipher}))


def unwritable(error: OSError) -> RepositoryError:
    """The folder of the local index is full or not ours."""
    return RepositoryError(
        f"The local index cannot be written: {error}",
        remedy="Make room, or set repository.cache_dir to a folder that can be written. The repository is whole.",
    )


def _downgraded(why: str) -> WrongKey:
    return WrongKey(
        f"The repository is not what it was: {why}",
        remedy="Find out who replaced repository.json; to use an open one, give no passphrase and a new cache_dir.",
    )
