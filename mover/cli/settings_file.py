"""Some values of a settings file, changed in place: comments, order and all else stay as they are.

The text is edited where the YAML parser says that a value stands. The result is parsed again and
must differ in the wanted values alone; what cannot be edited that way is refused, nothing written.
"""

from __future__ import annotations

import copy
import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from mover.errors import UsageError
from mover.files import write_whole

Values = Mapping[str, int | str]
"""Dotted name of two parts → value."""


def read_text(path: Path) -> str:
    """What the file holds, "" where there is none yet. Raises UsageError where it could not be changed later."""
    path = path.resolve()
    try:
        text = path.read_bytes().decode("utf-8") if path.exists() else ""
        is_possible = os.access(path.parent, os.W_OK | os.X_OK) and (not path.exists() or os.access(path, os.W_OK))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise UsageError(f"{path} cannot be read: {why}", remedy="Name a settings file with --write.") from None
    if not is_possible:
        raise UsageError(f"{path} cannot be written", remedy="Name another --write, or check the folder's rights.")
    _parsed(path, text)
    return text


def edited(path: Path, text: str, values: Values) -> str:
    """The text with the values in it. Raises UsageError, with the lines to paste, where that cannot be done safely."""
    wanted = copy.deepcopy(_parsed(path, text))
    for name, value in values.items():
        section, key = name.split(".")
        if not isinstance(wanted.setdefault(section, {}) or {}, dict):
            raise _refused(path, values)
        wanted[section] = {**(wanted[section] or {}), key: value}
    try:
        changed = _changed(text, values)
        is_right = yaml.safe_load(changed) == wanted
    except (yaml.YAMLError, ValueError):
        is_right = False
    if not is_right:
        raise _refused(path, values)
    return changed


def require_editable(path: Path, text: str, names: Iterable[str]) -> None:
    """Raises UsageError where ``edited`` could not put values of these names in; it names their sections."""
    sections: dict[str, list[str]] = {}
    for name in names:
        sections.setdefault(name.split(".")[0], []).append(name)
    if fixed := [section for section, some in sections.items() if not _is_editable(path, text, some)]:
        raise UsageError(
            f"The settings of {', '.join(fixed)} in {path} are written in a way that cannot be changed without harm",
            remedy="Write them one a line; or look for others (--only); or leave --write out: what to put in is shown.",
        )


def _is_editable(path: Path, text: str, names: Iterable[str]) -> bool:
    try:
        edited(path, text, dict.fromkeys(names, 0))
    except UsageError:
        return False
    return True


def difference(path: Path, before: str, after: str) -> str:
    """Only the lines that change: others may hold secrets."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), str(path), str(path), n=0, lineterm="")
    return "\n".join(lines)


def lines_of(values: Values) -> str:
    """The values as a settings file has them."""
    nested: dict[str, dict[str, int | str]] = {}
    for name, value in values.items():
        section, key = name.split(".")
        nested.setdefault(section, {})[key] = value
    return yaml.safe_dump(nested, sort_keys=False).rstrip()


def replace(path: Path, text: str) -> None:
    """Whole or not at all, with the rights that the file had. Raises UsageError."""
    path = path.resolve()
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", remedy="Name another --write.") from None


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        found = ...
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UsageError(f"{path} is no settings file", remedy="Name a file of settings, or one that does not exist.")
    return found


def _changed(text: str, values: Values) -> str:
    """Edits from the end to the beginning, so that places stay true. Raises ValueError where a value has no place."""
    newline = "\r\n" if "\r\n" in text else "\n"
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    sections = {key.value: (key, node) for key, node in root.value} if root else {}
    edits: list[tuple[int, int, str]] = []
    new: dict[str, dict[str, int | str]] = {}
    for name, value in values.items():
        section, key = name.split(".")
        if section in sections:
            edits.append(_edit(text, *sections[section], key, value, newline))
        else:
            new.setdefault(section, {})[key] = value
    for start, end, words in sorted(edits, reverse=True):
        text = text[:start] + words + text[end:]
    if new:
        text += "" if text.endswith("\n") or not text else newline
        text += yaml.safe_dump(new, sort_keys=False, line_break=newline)
    return text


def _edit(
    text: str, head: yaml.Node, node: yaml.Node, key: str, value: int | str, newline: str
) -> tuple[int, int, str]:
    """(from, to, words) of one value in its section."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        for name, old in node.value:
            if name.value == key:
                return old.start_mark.index, old.end_mark.index, str(value)
        first = node.value[0][0].start_mark
        return first.index, first.index, f"{key}: {value}{newline}{' ' * first.column}"
    if isinstance(node, yaml.ScalarNode) and node.value == "":
        end = text.find("\n", head.end_mark.index)
        if end >= 0:
            return end + 1, end + 1, f"{' ' * (head.start_mark.column + 2)}{key}: {value}{newline}"
    raise ValueError(key)


def _refused(path: Path, values: Values) -> UsageError:
    lines = "; ".join(f"{name}: {value}" for name, value in values.items())
    return UsageError(
        f"{path} is written in a way that cannot be changed without harm",
        remedy=f"Put these in by hand: {lines}.",
    )
