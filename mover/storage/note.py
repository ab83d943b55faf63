"""What a probe found a store too weak for, kept in the store itself: every later process goes by it.

Without the note a store that overwrites would be taken for an honest one at the next start.
An operator who has mended the store deletes ``store.json`` and runs ``mover check``.
"""

from __future__ import annotations

import json
from dataclasses import replace

from mover.errors import ObjectMissing
from mover.storage.protocol import Store, StoreTraits

NOTE = "store.json"
_LONGEST_LAG_S = 60.0
"""Twice what the probe lets pass: whoever writes into the store cannot stall its clients for longer."""


async def note(store: Store, found: StoreTraits) -> None:
    """Keep what is weak; a store that holds every promise needs no note."""
    if found.has_create_only and not found.list_lag_s:
        return
    content = {"create_only": found.has_create_only, "list_lag_s": found.list_lag_s}
    await store.replace(NOTE, [json.dumps(content).encode()])


async def recall(store: Store) -> None:
    """Have the store go by its note, if there is one. A damaged one counts as the weakest."""
    try:
        kept = await store.get(NOTE)
    except ObjectMissing:
        return
    has_create_only, list_lag_s = _read(kept)
    known = store.traits
    store.learn(
        replace(
            known,
            has_create_only=known.has_create_only and has_create_only,
            list_lag_s=max(known.list_lag_s, list_lag_s),
        )
    )


def _read(kept: bytes) -> tuple[bool, float]:
    try:
        content = json.loads(kept)
        has_create_only, list_lag_s = content["create_only"], float(content["list_lag_s"])
    except (ValueError, TypeError, KeyError):
        return False, _LONGEST_LAG_S
    return has_create_only is True, list_lag_s if list_lag_s < _LONGEST_LAG_S else _LONGEST_LAG_S
