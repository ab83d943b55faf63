"""deploy/tools.sh and venv.sh on distributions of both families: what they ask for, what they say, how they end.

dnf, apt-get, id and the Pythons are stand-ins on a PATH that has nothing else; the shell is real.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import programs
from tests.support.source import ROOT

SHELL = shutil.which("sh")
LAB = ("mkfs.xfs", "mkfs.ext4", "losetup")


class Machine:
    """A machine with nothing but what a test puts on it."""

    def __init__(self, folder: Path, *, uid: int = 0) -> None:
        self.folder, self.log = folder, folder / "log"
        self.path = folder / "bin"
        self.path.mkdir()
        for name in ("tail", "rm", "mkdir", "cp"):
            (self.path / name).symlink_to(shutil.which(name))
        self.has("id", f"echo {uid}")

    def has(self, name: str, script: str = "") -> None:
        program = self.path / name
        program.write_text(f"#!{SHELL}\n{script}\n")
        program.chmod(0o755)

    def installs(self, manager: str, **provided: str) -> None:
        """A package manager that knows these: package (or path) → program; it leaves out others, as strict=0 does."""
        cases = "".join(f"{package}) program={program} ;;\n" for package, program in provided.items())
        self.has(
            manager,
            f'echo "{manager} $*" >>{self.log}\n'
            f"for one; do program=; case $one in\n{cases}esac\n"
            f'[ -z "$program" ] || cp {self.path}/id {self.path}/$program\n'
            "done",
        )

    def run(self, script: str, *arguments: str) -> tuple[int, str]:
        # /usr/sbin, which tools.sh looks into too, is this machine's: it is taken out of the copy.
        copy = self.folder / script
        copy.write_text(re.sub(r"^PATH=.*\n", "", (ROOT / "deploy" / script).read_text(), flags=re.MULTILINE))
        done = subprocess.run(
            [SHELL, copy, *arguments], env={"PATH": str(self.path)}, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    def asked(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


TOOLS = ("promtool:prometheus:/usr/bin/promtool", "shellcheck:shellcheck:ShellCheck", "fio:fio")
RPMS = {"xfsprogs": "mkfs.xfs", "e2fsprogs": "mkfs.ext4", "util-linux": "losetup", "ShellCheck": "shellcheck"}


def test_nothing_is_asked_where_nothing_is_missing(machine: Machine):
    machine.installs("dnf")
    for name in (*LAB, "fio"):
        machine.has(name)
    assert machine.run("tools.sh", "fio:fio") == (0, "")
    assert machine.asked() == []


def test_dnf_is_asked_by_the_names_of_rhel(machine: Machine):
    machine.installs("dnf", **RPMS, **{"/usr/bin/promtool": "promtool", "fio": "fio"})
    code, said = machine.run("tools.sh", *TOOLS)
    assert (code, said.count("note:")) == (0, 0), said
    [asked] = machine.asked()
    assert asked.endswith(" xfsprogs e2fsprogs util-linux /usr/bin/promtool ShellCheck fio")
    assert "--setopt=strict=0" in asked, "without it one unknown name keeps all others away"


def test_what_a_rhel_like_lacks_is_one_line_and_no_failure(machine: Machine):
    machine.installs("dnf", **RPMS)
    code, said = machine.run("tools.sh", *TOOLS)
    assert code == 0
    [note] = [line for line in said.splitlines() if line.startswith("note:")]
    assert note.startswith("note: not installed: promtool fio (no repository of this machine has them;")


def test_the_words_of_a_dnf_that_fails_are_passed_on(machine: Machine):
    machine.has("dnf", "echo 'Repository x:' >&2; echo 'Error: Failed to download metadata' >&2; exit 1")
    code, said = machine.run("tools.sh", "fio:fio")
    assert code == 0
    assert "note: not installed: mkfs.xfs mkfs.ext4 losetup fio (Error: Failed to download metadata)" in said


def test_debian_is_asked_by_its_own_names(machine: Machine):
    machine.installs("apt-get")
    machine.has("dnf", "exit 1")
    assert machine.run("tools.sh", *TOOLS)[0] == 0
    update, install = machine.asked()
    assert update == "apt-get update -qq"
    assert install.endswith(" xfsprogs e2fsprogs util-linux prometheus shellcheck fio")


def test_on_debian_what_does_not_come_is_a_failure(machine: Machine):
    machine.has("apt-get", '[ "$1" = update ]')
    assert machine.run("tools.sh", "fio:fio")[0] != 0


@pytest.mark.parametrize(("manager", "name"), [("dnf", "ShellCheck"), ("apt-get", "shellcheck"), ("", "shellcheck")])
def test_others_than_root_are_told_what_root_installs(tmp_path: Path, manager: str, name: str):
    machine = Machine(tmp_path, uid=1000)
    if manager:
        machine.installs(manager)
    code, said = machine.run("tools.sh", "shellcheck:shellcheck:ShellCheck")
    assert code == 0
    assert said.rstrip().endswith(f"as root, install: xfsprogs e2fsprogs util-linux {name}")
    assert machine.asked() == []


def test_a_machine_of_neither_family_is_told(machine: Machine):
    assert machine.run("tools.sh") == (
        0,
        "note: neither apt-get nor dnf here; please install: xfsprogs e2fsprogs util-linux\n",
    )


@pytest.mark.parametrize("target", ["image-test", "node-test", "kernel-test"])
def test_what_is_made_of_debians_packages_says_so_elsewhere(machine: Machine, target: str):
    command = [shutil.which("make"), "--no-print-directory", target]
    done = subprocess.run(
        command, cwd=ROOT, env={"PATH": str(machine.path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert done.stdout == f"make {target}: made of Debian's packages, it runs on Debian only.\n"


def test_a_missing_program_skips_a_test_unless_it_is_owed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(programs, "OWED", False)
    mark = programs.needs("sh", "no-such-program").mark
    assert mark.args == (True,)
    assert mark.kwargs["reason"].startswith("not installed: no-such-program;")
    assert programs.needs("sh").mark.args == (False,)
    monkeypatch.setattr(programs, "OWED", True)
    assert programs.needs("no-such-program").mark.args == (False,), "CI on Debian would skip it in silence"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("promtool, version 2.32.1 (branch: HEAD)", "is version 2.32, too old: 2.42 is needed"),
        ("promtool, version 2.42.0+ds (branch: x)", ""),
        ("promtool, version 3.1.0", ""),
        ("promtool: not found", "is of an unknown version, too old: 2.42 is needed"),
    ],
)
def test_a_program_that_is_too_old_counts_as_missing(machine: Machine, monkeypatch, said: str, reason: str):
    machine.has("promtool", f"echo '{said}' >&2")
    monkeypatch.setattr(programs, "_PATH", str(machine.path))
    monkeypatch.setattr(programs, "OWED", False)
    programs.too_old.cache_clear()
    mark = programs.needs("promtool").mark
    programs.too_old.cache_clear()
    assert mark.args == (bool(reason),)
    assert mark.kwargs["reason"] == (reason and f"{machine.path}/promtool {reason}")


# --- the Python ------------------------------------------------------------------------------

OLD = 'case $1 in -c) exit 1 ;; -m) echo "too old" >&2; exit 9 ;; esac'
NEW = 'case $1 in -c) echo 3.11 ;; -m) mkdir "$3"; echo "$0" >"$3/made-by" ;; esac'


def made_by(folder: Path) -> str:
    return Path((folder / "made-by").read_text().strip()).name


def test_python3_makes_the_environment_where_it_is_new_enough(machine: Machine, tmp_path: Path):
    machine.has("python3", NEW)
    machine.has("python3.12", NEW)
    assert machine.run("venv.sh", str(tmp_path / "v")) == (0, "")
    assert made_by(tmp_path / "v") == "python3"


def test_a_newer_python_beside_an_old_python3_is_found(machine: Machine, tmp_path: Path):
    machine.has("python3", OLD)
    machine.has("python3.11", NEW)
    assert machine.run("venv.sh", str(tmp_path / "v")) == (0, "")
    assert made_by(tmp_path / "v") == "python3.11"


@pytest.mark.parametrize("version", ["3.11", "3.12"])
def test_root_on_a_rhel_like_gets_one(machine: Machine, tmp_path: Path, version: str):
    machine.has("python3", OLD)
    machine.has("new", NEW)
    place = f"cp {machine.path}/new {machine.path}/python{version}"
    machine.has("dnf", f'case "$*" in *python{version}) {place} ;; *) exit 1 ;; esac')
    code, said = machine.run("venv.sh", str(tmp_path / "v"))
    assert (code, said) == (0, "Installing python3.11 or python3.12 ...\n")
    assert made_by(tmp_path / "v") == f"python{version}"


def test_none_to_be_had_is_told_with_what_dnf_said(machine: Machine, tmp_path: Path):
    machine.has("dnf", "echo 'Error: no network' >&2; exit 1")
    code, said = machine.run("venv.sh", str(tmp_path / "v"))
    assert code == 1
    assert "Error: no network" in said
    assert "mover needs Python 3.11 or newer" in said
    assert "dnf install python3.11" in said


def test_one_that_is_named_is_taken_or_refused_and_no_other(machine: Machine, tmp_path: Path):
    machine.has("python3", NEW)
    machine.has("python3.9", OLD)
    machine.installs("dnf")
    code, said = machine.run("venv.sh", str(tmp_path / "v"), "python3.9")
    assert code == 1
    assert "python3.9 is not" in said
    assert machine.asked() == []
    assert not (tmp_path / "v").exists()


def test_debians_module_venv_is_installed_by_root(machine: Machine, tmp_path: Path):
    machine.has("python3", "case $1$2 in -c*ensurepip) exit 1 ;; -c*) echo 3.11 ;; -m*) exit 1 ;; esac")
    machine.has("new", NEW)
    machine.has("apt-get", f'echo "apt-get $*" >>{machine.log}; cp {machine.path}/new {machine.path}/python3')
    code, said = machine.run("venv.sh", str(tmp_path / "v"))
    assert (code, said) == (0, "Installing python3.11-venv ...\n")
    assert machine.asked()[-1] == "apt-get install -y -qq python3.11-venv"


def test_an_environment_that_fails_leaves_nothing_and_says_why(machine: Machine, tmp_path: Path):
    machine.has("python3", 'case $1 in -c) echo 3.11 ;; -m) mkdir -p "$3"; echo "disk full" >&2; exit 1 ;; esac')
    code, said = machine.run("venv.sh", str(tmp_path / "v"))
    assert code == 1
    assert "disk full" in said
    assert not (tmp_path / "v").exists()


def test_the_oldest_python_of_the_project_is_the_one_that_is_asked_for():
    wanted = re.search(r'requires-python = ">=(\d+)\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert wanted
    assert f"({wanted[1]}, {wanted[2]})" in (ROOT / "deploy/venv.sh").read_text()
    assert sys.version_info >= (int(wanted[1]), int(wanted[2]))
