"""Guests at work: between two backups their files change, really and repeatably.

Logs grow, uploads come and go, database pages are rewritten in place. The same seed and
round give the same changes on the same disk.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from numpy.random import Generator

from mover.lab import content, extents, filesystems, trees
from mover.lab.content import PAGE_BYTES, dice_for
from mover.lab.trees import GrowingTree, Tree
from mover.units import KIB, MIB, align_down, format_size


def live(disks: Sequence[Path], round_number: int, *, scratch: Path, seed: int = 0, share: float = 0.02) -> list[str]:
    """One round of work on a VM's live disks; about ``share`` of their content changes.

    scratch: a private folder on the lab's own disk, for mount points. Not while another
    round works on the same disks. Returns one sentence per disk. Raises LabError.
    """
    said = []
    for number, disk in enumerate(disks):
        dice = dice_for("live", seed, round_number, number)
        filesystem = filesystems.find(disk)
        if filesystem is None:
            said.append(_work_on_areas(disk, dice, share))
            continue
        with trees.opened(filesystem, scratch) as tree:
            said.append(_work_on_files(tree, dice, round_number, share))
    return said


def _work_on_files(tree: Tree, dice: Generator, round_number: int, share: float) -> str:
    tables, logs, uploads = tree.files("var/lib/db"), tree.files("var/log"), tree.files("srv/uploads")
    budget = int(share * (sum(tables.values()) + sum(logs.values()) + sum(uploads.values()))) + 4 * PAGE_BYTES
    pages = _rewrite_pages(tree, tables, dice, budget // 2)
    words = [f"{pages} pages rewritten"]
    if not isinstance(tree, GrowingTree):
        return words[0]
    if logs:
        grown = dice.choice(list(logs), min(2, len(logs)), replace=False).tolist()
        for name in grown:
            tree.append(name, content.log_text(dice, max(100, budget // 10)))
        words.append(f"{len(grown)} logs grown")
    incoming, folder = (uploads, "srv/uploads") if uploads else (tables, "var/lib/db")
    words += _exchange_files(tree, incoming, folder, dice, round_number, budget // 3)
    return ", ".join(words)


def _rewrite_pages(tree: Tree, tables: dict[str, int], dice: Generator, budget: int) -> int:
    """Scattered whole pages, as a database's checkpoint does."""
    names = [name for name, size in tables.items() if size >= PAGE_BYTES]
    total = sum(tables[name] for name in names)
    count = 0
    for name in names:
        room = tables[name] // PAGE_BYTES
        wanted = min(room, max(1, budget * tables[name] // total // PAGE_BYTES))
        chosen = sorted(dice.choice(room, wanted, replace=False).tolist())
        tree.overwrite(name, [(page * PAGE_BYTES, content.pages(dice, PAGE_BYTES)) for page in chosen])
        count += wanted
    return count


def _exchange_files(
    tree: GrowingTree, files: dict[str, int], folder: str, dice: Generator, round_number: int, budget: int
) -> list[str]:
    """New files come, and old ones of about the same size go."""
    leaving: list[str] = []
    freed = 0
    for name in dice.permutation(sorted(files)).tolist():
        if freed >= budget or len(leaving) >= min(20, len(files) // 2):
            break
        leaving.append(name)
        freed += files[name]
    for name in leaving:
        tree.remove(name)
    count = int(min(20, max(1, budget // (64 * KIB))))
    for number in range(count):
        tree.add(f"{folder}/round-{round_number:03}-{number:02}", content.picture(dice, max(1, budget // count)))
    return [f"{count} files new", f"{len(leaving)} deleted"]


def _work_on_areas(disk: Path, dice: Generator, share: float) -> str:
    """A disk without a file system: overwrite, clear and extend areas."""
    with open(disk, "r+b", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        spans = list(extents.data_spans(file.fileno()))
        budget = int(share * sum(end - start for start, end in spans))
        piece = max(4 * KIB, min(MIB, align_down(budget // 8, 4 * KIB)))
        written = 0
        while written < budget:
            start, end = spans[int(dice.integers(len(spans)))]
            length = min(piece, end - start)
            offset = start + align_down(int(dice.integers(0, end - start - length + 1)), 4 * KIB)
            os.pwrite(file.fileno(), dice.bytes(length), offset)
            written += max(length, 1)
        start, end = spans[0]
        os.pwrite(file.fileno(), bytes(min(piece, end - start)), start)
        offset = align_down(int(dice.integers(0, max(1, size - piece))), 4 * KIB)
        os.pwrite(file.fileno(), content.pages(dice, min(piece, size - offset)), offset)
        os.fsync(file.fileno())
    return f"{format_size(written)} overwritten, an area cleared, an area new"
