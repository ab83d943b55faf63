"""Reading settings: one YAML file < secret files < environment ``MOVER_…`` < flags.

Unknown keys are refused with the nearest name. Secrets come from files (``…_file``), a
secrets folder, or the environment; they never show in a repr, a log or an error.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import SecretStr, ValidationError

from mover.config import AUTO, Section, Settings
from mover.errors import ConfigError, UnknownSetting
from mover.model.point import BLOCK_SIZES

ENV_PREFIX = "MOVER_"


def load(
    file: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """Read, merge and check. flags: dotted names → values (None: not given; empty: as if never set).

    Raises ConfigError with the setting's name and what it wants, UnknownSetting with the
    nearest name.
    """
    environment = os.environ if environment is None else environment
    sources = (_from_file(file), _from_secrets(environment), _from_environment(environment), flags or {})
    return _with_secret_files(_validated(sources))


def check_file(file: Path) -> None:
    """Raises what ``load`` would say of this file alone; the secret files that it names are not read."""
    _validated([_from_file(file)])


def _validated(sources: Iterable[Mapping[str, Any]]) -> Settings:
    """All of them, the later ones over the former."""
    merged: dict[str, Any] = {}
    known = set(setting_names())
    for source in sources:
        given = {name: value for name, value in _flatten(source) if value is not None}
        for name in filter(given.get, given):
            # A secret in a later source is meant to win over the file that an earlier one names.
            _drop(merged, f"{name}_file")
        for name, value in given.items():
            if value == "" and name in known:
                _drop(merged, name)
            else:
                _put(merged, name, value)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise _explained(error) from None


def _from_file(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    text = ""
    try:
        text = file.read_text("utf-8")
        content = yaml.safe_load(text)
    except FileNotFoundError:
        raise ConfigError(f"There is no file {file}", remedy="Name an existing file with --config.") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}", remedy=_readable(file, error)) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{file} is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}",
            remedy="Save the file as UTF-8.",
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not YAML: {_where(error, text)}", remedy=_YAML_REMEDY) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{file} must hold settings by name", remedy="See mover.yaml in the README.")
    return cast(dict[str, Any], content)


_YAML_REMEDY = (
    "Mend that line: settings are written as 'name: value', indented by spaces, "
    "and a value with : # { [ * & or % at its beginning stands in quotes."
)


def _where(error: yaml.YAMLError, text: str) -> str:
    """One line: where, and what is wrong there. The parser's own has several, with an excerpt that may be a secret."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is not None:
        line, column, words = mark.line, mark.column, f"{problem}"
    else:
        # A character that no YAML may hold.
        at = getattr(error, "position", 0)
        line, column = text.count("\n", 0, at), at - (text.rfind("\n", 0, at) + 1)
        words = getattr(error, "reason", None) or "it cannot be read"
    words = _QUOTED.sub("", " ".join(words.split()))
    return f"line {line + 1}, column {column + 1}: {words}"


_QUOTED = re.compile(r" '(?!<)[^']{2,}'")
"""What the parser quotes of the file: a password may begin with * or !."""


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """``MOVER_PRISM__URL`` → ``prism.url``; lists and maps are written as YAML."""
    found: dict[str, Any] = {}
    for key, text in environment.items():
        if key.startswith(ENV_PREFIX) and key not in _NOT_SETTINGS:
            name = key.removeprefix(ENV_PREFIX).lower().replace("__", ".")
            try:
                found[name] = yaml.safe_load(text) if text[:1] in "[{" and text else text
            except yaml.YAMLError as error:
                remedy = "Write lists as [a, b] and maps as {a: b}."
                raise ConfigError(f"{key} is not YAML: {_where(error, text)}", remedy=remedy) from None
    return found


_NOT_SETTINGS = {"MOVER_CONFIG", "MOVER_SECRETS_DIR"}


def _from_secrets(environment: Mapping[str, str]) -> dict[str, Any]:
    """Files ``mover_prism__password`` in the secrets folder, as container engines mount them."""
    folder = Path(environment.get("MOVER_SECRETS_DIR", "/run/secrets"))
    if not folder.is_dir():
        return {}
    return {
        path.name.removeprefix("mover_").lower().replace("__", "."): _secret(path)
        for path in sorted(folder.glob("mover_*"))
        if path.is_file()
    }


def _flatten(source: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in source.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name != "repository.store":
            yield from _flatten(value, f"{name}.")
        else:
            yield name, value


def _put(tree: dict[str, Any], name: str, value: Any) -> None:
    *path, leaf = name.split(".")
    for part in path:
        below = tree.setdefault(part, {})
        if not isinstance(below, dict):
            raise ConfigError(f"{part} holds a value, not settings", remedy=f"Write {name} as a nested name.")
        tree = below
    tree[leaf] = value


def _drop(tree: dict[str, Any], name: str) -> None:
    *path, leaf = name.split(".")
    below: Any = tree
    for part in path:
        below = below.get(part) if isinstance(below, dict) else None
    if isinstance(below, dict):
        below.pop(leaf, None)


def _explained(error: ValidationError) -> ConfigError:
    first = error.errors(include_url=False, include_input=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, setting_names(), 1, 0.5)
        hint = f"Did you mean {near[0]}?" if near else "See the table of settings in deploy/REFERENCE.md."
        return UnknownSetting(f"There is no setting {name}", remedy=hint, setting=name)
    why = first["msg"].removeprefix("Value error, ")
    return ConfigError(f"{name}: {why}", remedy=f"Correct the setting {name}.", setting=name)


def setting_names(section: type[Section] = Settings, prefix: str = "") -> Iterator[str]:
    """The dotted name of every setting, in order of declaration."""
    for key, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from setting_names(kind, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _with_secret_files(settings: Settings) -> Settings:
    prism, repository = settings.prism, settings.repository
    if prism.password_file:
        prism = prism.model_copy(update={"password": SecretStr(_secret(prism.password_file))})
    if repository.passphrase_file:
        phrase = SecretStr(_secret(repository.passphrase_file))
        repository = repository.model_copy(update={"passphrase": phrase})
    if repository.secret_access_key_file:
        store = {**repository.store, "secret_access_key": _secret(repository.secret_access_key_file)}
        repository = repository.model_copy(update={"store": store})
    checked = settings.model_copy(update={"prism": prism, "repository": repository})
    _check_together(checked)
    return checked


def _check_together(settings: Settings) -> None:
    size = settings.data.block_size
    if size not in (AUTO, *BLOCK_SIZES):
        raise ConfigError(
            f"data.block_size: {size} is not a power of two from 256 KiB to 4 MiB",
            remedy="Use 256KiB, 512KiB (the default), 1MiB, 2MiB, 4MiB, or auto.",
        )


def _secret(path: Path) -> str:
    try:
        return path.read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"The secret file {path} cannot be read: {why}", remedy=_readable(path, error)) from None


def _readable(path: Path, error: Exception) -> str:
    """What to do about a file that could not be read. No chown to paste: the daemon may be another user's."""
    if isinstance(error, IsADirectoryError):
        return (
            "Remove that folder and write the file. A container engine makes such a folder on the host of a file "
            "that is to be mounted and is not there."
        )
    if not isinstance(error, PermissionError):
        return "Check path and rights: it must be a text file that is there."
    user = os.geteuid()
    if user == 0:
        return (
            "This is root without the right to read others' files (a unit, a container): the file must be root's, in a "
            f"folder that is not hidden from it, such as /etc/mover (chown 0 {shlex.quote(str(path))})."
        )
    return (
        f"This runs as user {user}: run it as root (sudo mover …). Only where mover is always to run as that user, as "
        "in a container, give it the settings: deploy/container/README.md says how."
    )
