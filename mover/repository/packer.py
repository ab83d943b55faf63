"""The open pack, shared by all writing sessions of this process, and what became of full ones.

Compute threads take a place, fill it outside the lock and hand it back; a pack closes when
no further record fits and is whole when all places are back. Any failure gives its id up
for ever and fails every session that relies on it. The number of packs in memory is bounded:
a thread that needs a new one waits for an upload to end.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection

from mover.clock import stopwatch
from mover.errors import Damaged
from mover.metrics import STAGE_SECONDS
from mover.repository import layout
from mover.repository.keys import Secrets
from mover.repository.layout import Codec, FrameKind
from mover.repository.making import Owner, Pack, PackState
from mover.repository.memory import PackMemory
from mover.repository.pack import PackBuilder, RecordOpener, pack_bytes_for
from mover.repository.seal import FRAME_OVERHEAD_BYTES

CHECK_EVERY = 16
"""One sealed record in so many is opened again; with ``paranoid`` each one."""
MEMORY_KEPT_PACKS = 2
"""Memory that waits for the next packs while a session writes: no more than buffers may never have."""


class Packer:
    """One per process and repository. All methods may be called from any thread."""

    def __init__(
        self,
        secrets: Secrets,
        opener: RecordOpener,
        *,
        pack_bytes: int,
        slots: int,
        paranoid: bool = False,
        reserve: Callable[[int], None] = lambda _: None,
        release: Callable[[int], None] = lambda _: None,
    ) -> None:
        """slots: packs in memory at most. reserve may block; both are called once per pack, without the lock."""
        self._secrets, self._opener = secrets, opener
        self._pack_bytes, self._check_every = pack_bytes, 1 if paranoid else CHECK_EVERY
        self._reserve, self._release = reserve, release
        self._changed = threading.Condition(threading.Lock())
        self._memory = PackMemory(usual_bytes=pack_bytes, most=MEMORY_KEPT_PACKS)
        self._slots = self._slots_free = slots
        self._open: Pack | None = None
        self._is_opening = False
        self._full: deque[Pack] = deque()
        self._recent: dict[bytes, Pack | Owner] = {}
        """Ids whose records are in no segment yet: their pack, or the session that is about to store them."""

    # --- what is known ---

    def knows(self, owner: Owner, block_id: bytes) -> bool:
        """Whether a recent record serves this session, which from now on relies on its pack."""
        entry = self._recent.get(block_id)
        if entry is None:
            return False
        if not isinstance(entry, Pack):
            return entry is owner
        if owner in entry.owners:
            return entry.state is not PackState.FAILED
        with self._changed:
            if entry.state is PackState.FAILED or entry.pack_id in owner.dead_packs:
                return False
            self._rely(owner, entry)
            return True

    def _rely(self, owner: Owner, pack: Pack) -> None:
        if pack.state is not PackState.INDEXED:
            pack.owners.add(owner)
            owner.packs.add(pack)

    def claim(self, owner: Owner, block_id: bytes) -> bool:
        """True: the caller is the one to store it. False: it is known by now."""
        with self._changed:
            if block_id not in self._recent:
                self._recent[block_id] = owner
                return True
        return not self.knows(owner, block_id)

    def unclaim(self, owner: Owner, block_id: bytes) -> None:
        """It was not stored after all."""
        with self._changed:
            if self._recent.get(block_id) is owner:
                del self._recent[block_id]

    # --- compute threads ---

    def write(
        self,
        owner: Owner,
        block_id: bytes,
        packed: bytes | memoryview,
        *,
        codec: Codec,
        plain_bytes: int,
        kind: FrameKind,
    ) -> int:
        """Seal one record into the open pack; its stored bytes. May wait for an upload to end."""
        stored_bytes = len(packed) + FRAME_OVERHEAD_BYTES
        try:
            pack, number, memory = self._place(owner, block_id, stored_bytes, plain_bytes, codec, kind)
        except BaseException:  # no place was taken; raised again
            self._drop_unwanted()
            raise
        try:
            sealer = pack.builder.sealer
            sealer.seal_into(
                memory, packed, number=number, kind=kind, codec=codec, plain_bytes=plain_bytes, block_id=block_id
            )
            if number % self._check_every == 0:
                self._opener.open(sealer, memory, offset=0, record_id=block_id, plain_bytes=plain_bytes, kind=kind)
        except BaseException as error:
            self._hand_back(pack, block_id, _explained(error))
            raise
        self._hand_back(pack, block_id, None)
        return stored_bytes

    def _place(
        self, owner: Owner, block_id: bytes, stored_bytes: int, plain_bytes: int, codec: Codec, kind: FrameKind
    ) -> tuple[Pack, int, memoryview]:
        while True:
            with self._changed:
                while not self._may_place(stored_bytes):
                    owner.check()
                    started = stopwatch()
                    self._changed.wait()
                    STAGE_SECONDS.labels("packs", "waiting").inc(stopwatch() - started)
                owner.check()
                pack = self._open
                if pack is not None:
                    number, memory = pack.builder.place(block_id, stored_bytes, plain_bytes, codec, kind)
                    pack.places_out += 1
                    self._rely(owner, pack)
                    return pack, number, memory
                self._is_opening = True
                self._slots_free -= 1
            self._open_new(stored_bytes)

    def _drop_unwanted(self) -> None:
        """The open pack, if the session of its opener ended before it took a place in it."""
        with self._changed:
            pack = self._open
            gone = self._drop(pack) if pack is not None and not pack.owners else None
        self._after(gone)

    def _may_place(self, stored_bytes: int) -> bool:
        """Whether there is a pack with room, or none open and a slot for a new one. Closes a pack without room."""
        if self._open is not None:
            if self._open.builder.has_room(stored_bytes):
                return True
            self._close_open()
        return not self._is_opening and self._slots_free > 0

    def _open_new(self, stored_bytes: int) -> None:
        """Without the lock: reserving memory may wait, and places must come back meanwhile."""
        size = max(self._pack_bytes, pack_bytes_for(stored_bytes))
        pack, reserved = None, False
        try:
            self._reserve(size)
            reserved = True
            pack = Pack(PackBuilder(self._secrets, memory=self._memory.take(size)), size)
        finally:
            with self._changed:
                self._is_opening = False
                if pack is None:
                    self._slots_free += 1
                self._open = pack
                self._changed.notify_all()
            if pack is None and reserved:
                self._release(size)

    def _hand_back(self, pack: Pack, block_id: bytes, error: BaseException | None) -> None:
        with self._changed:
            pack.places_out -= 1
            if error is None:
                if pack.state is not PackState.FAILED:
                    self._recent[block_id] = pack
            elif pack.state is not PackState.FAILED:
                self._fail(pack, error)
            gone = self._settle(pack)
        self._after(gone)

    # --- closing, uploading ---

    def close_for(self, owner: Owner) -> list[Pack]:
        """Close the open pack if this session relies on it; all that it waits for when it flushes now."""
        with self._changed:
            if self._open is not None and owner in self._open.owners:
                self._close_open()
            return [pack for pack in owner.packs if pack.is_on_its_way]

    def _close_open(self) -> None:
        pack, self._open = self._open, None
        assert pack is not None
        pack.is_closed = True
        self._settle(pack)

    def _settle(self, pack: Pack) -> Pack | None:
        """All places back? Then a closed pack is full, and a failed one is returned."""
        if pack.places_out:
            return None
        if pack.state is PackState.OPEN and pack.is_closed:
            pack.finish()
            self._full.append(pack)
            for owner in pack.owners:
                owner.wake()
        return pack if pack.state is PackState.FAILED else None

    def _after(self, gone: Pack | None) -> None:
        """Memory first, then the slot: whoever takes that finds room."""
        if gone is None or not gone.reserved_bytes:
            return
        size, gone.reserved_bytes = gone.reserved_bytes, 0
        self._memory.give_back(gone.let_go())
        self._release(size)
        with self._changed:
            self._slots_free += 1
            self._changed.notify_all()

    def take(self) -> Pack | None:
        """A full pack to upload: then ``done``, ``failed`` or ``give_back`` it."""
        with self._changed:
            return self._full.popleft() if self._full else None

    def give_back(self, pack: Pack) -> None:
        """The upload was interrupted; another one sends the same bytes, if anybody needs them."""
        with self._changed:
            self._full.appendleft(pack)
            for owner in pack.owners:
                owner.wake()
            gone = None if pack.owners else self._drop(pack)
        self._after(gone)

    def done(self, pack: Pack) -> None:
        """It is durable."""
        with self._changed:
            pack.state = PackState.DURABLE
            owners = list(pack.owners)
            if not owners:
                self._forget(pack)
        self._after(pack)
        for owner in owners:
            owner.wake()

    def failed(self, pack: Pack, error: BaseException) -> None:
        """It will never be: its id is given up, whoever relies on it fails with ``error``."""
        with self._changed:
            self._fail(pack, error)
            gone = self._settle(pack)
        self._after(gone)

    def _fail(self, pack: Pack, error: BaseException) -> None:
        self._give_up(pack)
        for owner in pack.owners:
            owner.fail(error)

    def _give_up(self, pack: Pack) -> None:
        pack.state = PackState.FAILED
        if self._open is pack:
            self._open = None
        self._forget(pack)
        self._changed.notify_all()

    def _forget(self, pack: Pack) -> None:
        """Its records are no longer found here."""
        table = pack.contents.table.tobytes() if pack.contents else bytes(pack.builder.table)
        size = layout.TABLE_ROW.size
        for at in range(0, len(table), size):
            block_id = table[at : at + layout.KEY_BYTES]
            if self._recent.get(block_id) is pack:
                del self._recent[block_id]

    # --- sessions ---

    def unindexed(self, owner: Owner) -> list[Pack]:
        """Durable packs that its index must name."""
        with self._changed:
            return [pack for pack in owner.packs if pack.state is PackState.DURABLE]

    def indexed(self, packs: Collection[Pack]) -> None:
        """Their records are found in the index from now on, for all who rely on them."""
        for pack in packs:
            with self._changed:
                pack.state = PackState.INDEXED
                self._forget(pack)
                for owner in pack.owners:
                    owner.packs.discard(pack)
                pack.owners.clear()

    def wake_all(self) -> None:
        """A session ended: let its waiting threads look."""
        with self._changed:
            self._changed.notify_all()

    def leave(self, owner: Owner) -> None:
        """The session relies on nothing any more; what no other one needs is dropped."""
        with self._changed:
            left = {*owner.packs, *([self._open] if self._open else [])}
            for pack in owner.packs:
                pack.owners.discard(owner)
            owner.packs.clear()
            # Under one lock: nobody may come to rely on a pack between these two looks at it.
            gone = [self._drop(pack) for pack in left if not pack.owners]
        for each in gone:
            self._after(each)
        if self._slots_free == self._slots:
            self._memory.clear()

    def _drop(self, pack: Pack) -> Pack | None:
        """Nobody relies on it: as ``_settle``. One whose upload is under way may still become durable."""
        if pack.state is PackState.DURABLE:
            self._forget(pack)
        elif pack.state is PackState.OPEN or pack in self._full:
            if pack in self._full:
                self._full.remove(pack)
            self._give_up(pack)
            return self._settle(pack)
        return None


def _explained(error: BaseException) -> BaseException:
    if isinstance(error, Damaged):
        return Damaged(
            "A record that was just sealed does not open again: this machine's memory or processor is faulty",
            remedy="Test this machine's memory; run the job on another one. Nothing of it was committed.",
            object=error.facts.get("object", ""),
        )
    return error
