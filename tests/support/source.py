"""The project's own source as data: modules, imports, functions. For tests about the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Module:
    name: str
    path: Path
    tree: ast.Module
    lines: int


@dataclass(frozen=True)
class Import:
    target: str
    line: int
    is_late: bool
    """Inside a function."""


@cache
def modules() -> tuple[Module, ...]:
    """Every module of the package, sorted by name."""
    found = []
    for path in sorted((ROOT / "mover").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text("utf-8")
        found.append(Module(name, path, ast.parse(text), text.count("\n")))
    return tuple(found)


@cache
def imports(module: Module) -> tuple[Import, ...]:
    """Absolute imports of a module; ``from a import b`` gives ``a.b`` where that is a module."""
    return tuple(_imports(module))


def _imports(module: Module) -> Iterator[Import]:
    names = {known.name for known in modules()}
    late = {node for function in functions(module) for node in ast.walk(function)}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, node in late)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield Import(inner if inner in names else node.module, node.lineno, node in late)


def functions(module: Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions and methods, nested ones too."""
    return [node for node in ast.walk(module.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
