"""The structure is a promise: floors, doors, sizes. A change that breaks one fails here."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys

import pytest

from tests.support.source import ROOT, Module, functions, imports, modules

FLOORS: list[set[str]] = [
    {"mover", "mover.errors"},
    {"mover.units", "mover.clock", "mover.files"},
    {"mover.model", "mover.room", "mover.heap"},
    {"mover.config"},
    {"mover.logs", "mover.metrics", "mover.settings"},
    {"mover.hypervisor", "mover.device", "mover.storage"},
    {"mover.catalog", "mover.repository"},
    {"mover.pipeline"},
    {"mover.jobs"},
    {"mover.operations"},
    {"mover.app"},
    {"mover.cli", "mover.api"},
    {"mover.daemon", "mover.tour"},
    {"mover.program"},
    {"mover.__main__"},
]
"""Lowest first. A room imports only rooms of lower floors, or itself."""

GROUND = {room for floor in FLOORS[:5] for room in floor}
LAB_STARTERS = {"mover.program", "mover.tour"}
"""Who may start the lab: the command line and the commands that are about it."""

ONLY_HERE = {
    "sqlalchemy": {"mover.catalog"},
    "aiosqlite": {"mover.catalog"},
    "dbos": {"mover.jobs"},
    "obstore": {"mover.storage"},
    "time": {"mover.clock"},
    "random": {"mover.clock"},
    "secrets": {"mover.clock"},
    "uuid": {"mover.clock"},
    "blake3": {"mover.repository"},
    "zstandard": {"mover.repository"},
    "cryptography": {"mover.repository", "mover.hypervisor", "mover.lab"},
    "prometheus_client": {"mover.metrics", "mover.api"},
    "typer": {"mover.cli", "mover.program"},
    "rich": {"mover.cli", "mover.tour"},
}
"""A library behind one door: its name → the rooms that may import it."""

DATA_PLANE = {"mover.device", "mover.pipeline", "mover.repository", "mover.storage"}

LATE_AT_WILL = {"mover.cli.main", "mover.cli.groups", "mover.program", "mover.__main__"}
"""The command line: each command's body imports its work."""
LATE = {
    *(("mover.logs", "structlog"), ("mover.storage.stack", "mover.storage.bucket")),
    *(("mover.cli.console", "mover.cli.terminal"), ("mover.cli.points", "mover.cli.point_views")),
}
"""(module, what it imports inside a function), so that short commands do without; the reason stands beside it."""

FUNCTION_LINES_MAX = 50
FILE_LINES_MAX = 350
TEST_FILE_LINES_MAX = 400
MEDIAN_FUNCTION_LINES_MAX = 8
LONG_FUNCTIONS: dict[str, int] = {}
LONG_FILES: dict[str, int] = {}
"""Today's exceptions to the limits, with their size: may shrink, may not grow or be joined."""


def room(name: str) -> str:
    """``mover.storage.local`` → ``mover.storage``."""
    return ".".join(name.split(".")[:2])


def floor(name: str) -> int:
    return next(index for index, rooms in enumerate(FLOORS) if room(name) in rooms)


def own(target: str) -> bool:
    return target == "mover" or target.startswith("mover.")


def test_each_room_imports_only_rooms_below():
    wrong = []
    for module in modules():
        if room(module.name) == "mover.lab":
            continue
        for item in imports(module):
            if not own(item.target) or room(item.target) == room(module.name) or room(item.target) == "mover.lab":
                continue
            if floor(item.target) >= floor(module.name):
                wrong.append(f"{module.name}:{item.line} imports {item.target}")
    assert not wrong, "\n".join(wrong)


def test_the_lab_stands_on_the_ground_alone_and_is_a_stranger():
    wrong = []
    for module in modules():
        for item in imports(module):
            if room(module.name) == "mover.lab":
                if own(item.target) and room(item.target) not in GROUND | {"mover.lab"}:
                    wrong.append(f"{module.name}:{item.line} imports {item.target}")
            elif room(item.target) == "mover.lab" and room(module.name) not in LAB_STARTERS:
                wrong.append(f"{module.name}:{item.line} imports {item.target}")
    assert not wrong, "\n".join(wrong)


def test_each_library_has_its_one_door():
    wrong = []
    for module in modules():
        for item in imports(module):
            doors = ONLY_HERE.get(item.target.split(".")[0])
            if doors is not None and room(module.name) not in doors:
                wrong.append(f"{module.name}:{item.line} imports {item.target}; only {sorted(doors)} may")
    assert not wrong, "\n".join(wrong)


def test_bytes_can_be_restored_with_the_database_gone():
    reach = {module.name: {item.target for item in imports(module) if own(item.target)} for module in modules()}
    for start in (name for name in reach if room(name) in DATA_PLANE):
        seen, queue = set(), [start]
        while queue:
            for target in reach.get(queue.pop(), set()) - seen:
                seen.add(target)
                queue.append(target)
        assert not {room(name) for name in seen} & {"mover.catalog", "mover.jobs", "mover.api"}, start


def test_no_import_cycles():
    graph = {
        module.name: {item.target for item in imports(module) if own(item.target) and item.target != module.name}
        for module in modules()
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join([*path, name])
        if name in done:
            return
        for target in graph.get(name, set()):
            visit(target, (*path, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def test_imports_stand_at_the_top():
    late = [
        f"{module.name}:{item.line} imports {item.target}"
        for module in modules()
        for item in imports(module)
        if item.is_late and module.name not in LATE_AT_WILL and (module.name, item.target) not in LATE
    ]
    assert not late, "\n".join(late)


@pytest.mark.timeout(400)
def test_every_module_imports_alone():
    """Whatever was imported before: nothing works only because another module of ours came first."""
    command = [sys.executable, "-m", "tests.support.importing"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=360, check=True, cwd=ROOT)
    assert done.stdout == "", done.stdout


def _calls(module: Module, names: set[str]) -> list[str]:
    return [
        f"{module.name}:{node.lineno}"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in names
    ]


@pytest.mark.parametrize(
    ("names", "doors"),
    [
        ({"os.urandom", "datetime.now", "datetime.utcnow"}, {"mover.clock"}),
        ({"asyncio.sleep"}, {"mover.clock", "mover.lab"}),
        ({"asyncio.to_thread"}, set()),
    ],
)
def test_calls_that_have_one_door(names, doors):
    wrong = [place for module in modules() if room(module.name) not in doors for place in _calls(module, names)]
    assert not wrong, f"{sorted(names)} only in {sorted(doors)}: {wrong}"


def test_every_task_has_a_parent():
    orphan = re.compile(r"(asyncio|loop|loop\(\))\.create_task\(|ensure_future\(")
    paths = [path for folder in ("mover", "bench", "tests") for path in (ROOT / folder).rglob("*.py")]
    assert [path for path in paths if orphan.search(path.read_text("utf-8"))] == []


def _length(node: ast.AST) -> int:
    return node.end_lineno - node.lineno + 1


def test_functions_stay_small():
    sizes = {f"{m.name}.{f.name}": _length(f) for m in modules() for f in functions(m)}
    grown = {name: size for name, size in sizes.items() if size > LONG_FUNCTIONS.get(name, FUNCTION_LINES_MAX)}
    assert not grown, grown
    assert statistics.median(sizes.values()) <= MEDIAN_FUNCTION_LINES_MAX


def test_files_stay_small():
    grown = {m.name: m.lines for m in modules() if m.lines > LONG_FILES.get(m.name, FILE_LINES_MAX)}
    assert not grown, grown
    tests = {path: path.read_text("utf-8").count("\n") for path in (ROOT / "tests").rglob("*.py")}
    assert max(tests.values()) <= TEST_FILE_LINES_MAX, max(tests, key=tests.__getitem__)


def test_every_module_says_what_it_owns():
    silent = [m.name for m in modules() if m.lines and not ast.get_docstring(m.tree)]
    assert not silent, silent
