"""A program: imports each module of mover in a process that has nothing of ours but what it needs; prints failures.

Libraries are imported once, before any fork. Then processes branch as the imports do: each
module is imported in a child of the process of one that it imports itself, and that one alone.
"""

from __future__ import annotations

import gc
import importlib
import os
from collections import defaultdict
from collections.abc import Callable

from tests.support.source import imports, modules


def main() -> None:
    needs = _needs()
    for library in _libraries():
        importlib.import_module(library)
    # A fork costs what the process holds: no syntax trees, and nothing for a collector to touch.
    imports.cache_clear()
    modules.cache_clear()
    gc.collect()
    gc.freeze()
    branches = defaultdict(list)
    for name, needed in needs.items():
        longest = max(needed, key=lambda other: (len(needs[other]), other), default="")
        branches[longest].append(name)
    _grow("", branches)


def _grow(name: str, branches: dict[str, list[str]]) -> None:
    if name:
        importlib.import_module(name)
    for branch in branches.get(name, ()):
        _in_child(branch, lambda branch=branch: _grow(branch, branches))


def _in_child(what: str, work: Callable[[], object]) -> None:
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(what, repr(error), flush=True)
        os._exit(0)
    os.waitpid(child, 0)


def _needs() -> dict[str, set[str]]:
    """Module → all of ours that it imports when it is imported, near and far."""
    near = {
        module.name: {item.target for item in imports(module) if _is_ours(item.target) and not item.is_late}
        for module in modules()
    }
    needs: dict[str, set[str]] = {}
    for name in near:
        needs[name], queue = set(), [name]
        while queue:
            new = near[queue.pop()] - needs[name]
            needs[name] |= new
            queue.extend(new)
    return needs


def _libraries() -> list[str]:
    """What any of ours names in an import."""
    return sorted({item.target for module in modules() for item in imports(module) if not _is_ours(item.target)})


def _is_ours(name: str) -> bool:
    return name == "mover" or name.startswith("mover.")


if __name__ == "__main__":
    main()
