"""An image of our own and containers of it: buildah and podman over a store that goes with the test."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mover.clock import pause, stopwatch
from tests.support.source import ROOT

BASE, IMAGE = "localhost/mover-test-base", "localhost/mover-test"
SOURCE = "https://example.org/mover"
ARCHITECTURE = os.environ.get("ARCHITECTURE", "")
"""As Debian calls it; empty: this machine's."""
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
"""Architecture → what the kernel calls it."""
IS_EMULATED = bool(ARCHITECTURE) and MACHINES[ARCHITECTURE] != os.uname().machine
"""Some ten times slower."""
PATIENCE_S = 500
_CONTEXT = ("mover", "pyproject.toml", "README.md", "LICENSE", "deploy/requirements.lock", "deploy/container")
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
PLATFORM = ("--platform", f"linux/{ARCHITECTURE}") if ARCHITECTURE else ()
SCSI_MAJORS = (8, *range(65, 72), *range(128, 136))
RIGHTS = (
    *("--read-only", "--tmpfs", "/tmp", "--network", "host", "--cap-drop", "all", "--cap-add", "SYS_ADMIN"),
    *("--volume", "/dev:/dev", *(f"--device-cgroup-rule=b {major}:* rw" for major in SCSI_MAJORS)),
)
"""What deploy/container/README.md tells an operator to give; a test compares."""


def unusable() -> str | None:
    """Why no image can be built here, in words; None where it can."""
    if os.geteuid() != 0:
        return "building an image from packages needs root"
    programs = ["buildah", "mmdebstrap", "podman", "runc", *(["arch-test"] if IS_EMULATED else [])]
    missing = [name for name in programs if not shutil.which(name)]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if IS_EMULATED and subprocess.run(["arch-test", ARCHITECTURE], capture_output=True, check=False).returncode:
        return f"programs of {ARCHITECTURE} do not run here: mount binfmt_misc, then install qemu-user-static"
    return None


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Containers:
    """Storage, a builder and a runner. ``close`` leaves nothing: no image, container, mount or control group."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        common = ["--root", str(folder / "root"), "--runroot", str(folder / "run")]
        self._builder = ["buildah", *common, "--storage-driver", _driver(common)]
        self._runner = [
            *("podman", *self._builder[1:], "--tmpdir", str(folder / "tmp"), "--cgroup-manager", "cgroupfs"),
            *("--events-backend", "file", "--runtime", "runc"),
        ]
        self._groups = set(_podman_groups())

    def close(self) -> None:
        self.podman("rm", "--all", "--force", "--time", "0")
        self.buildah("rm", "--all")
        self.podman("volume", "prune", "--force")
        self.buildah("rmi", "--all", "--force")
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            target = line.split(" ")[4]
            if target.startswith(f"{self.folder}/"):
                subprocess.run(["umount", "-l", target], check=False)
        shutil.rmtree(self.folder)
        for group in sorted(set(_podman_groups()) - self._groups, reverse=True):
            _removed(group)

    def buildah(self, *words: str) -> Done:
        return _run([*self._builder, *words])

    def podman(self, *words: str) -> Done:
        return _run([*self._runner, *words])

    def build(self, source: Path, *, canary: str, revision: str) -> None:
        """Base and image, by the scripts that an operator runs. canary: put wherever a secret could come from."""
        certificates = self.folder / "certificates.pem"
        trusted = Path(os.environ.get("PIP_CERT") or _CERTIFICATES)
        certificates.write_text(f"# {canary}\n{trusted.read_text()}")
        environment = {
            **os.environ,
            "BUILDER": " ".join(self._builder),
            "BUILD_OPTIONS": " ".join(["--isolation chroot", *PLATFORM]),
            "PIP_CERT": str(certificates),
            "REVISION": revision,
            "SOURCE": SOURCE,
            "MOVER_PRISM__PASSWORD": canary,
        }
        scripts = source / "deploy/container"
        # The lab, which the demo starts, makes file systems: an ordinary node needs neither package.
        for command in ([scripts / "base.sh", BASE, "xfsprogs", "e2fsprogs"], [scripts / "build.sh", BASE, IMAGE]):
            done = _run([str(word) for word in command], env=environment)
            assert done.code == 0, f"{done.out}\n{done.err}"

    def run(self, *words: str, give: tuple[str, ...] = RIGHTS) -> Done:
        """``podman run --rm`` of the image with these flags; words: mover's own."""
        return self.podman("run", "--rm", *here(), *give, IMAGE, *words)

    def start(self, name: str, *words: str, give: tuple[str, ...]) -> None:
        """The same in the background, under a name."""
        done = self.podman("run", "--detach", "--name", name, *here(), *give, IMAGE, *words)
        assert done.code == 0, done.err

    def until(self, name: str, words: str) -> str:
        """Wait for a line with these words in what a container says."""
        with subprocess.Popen(
            [*self._runner, "logs", "--follow", name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as following:
            said = ""
            for line in following.stdout:
                said += line
                if words in line:
                    following.kill()
                    return line
        raise AssertionError(f"it ended without {words!r}:\n{said}")


def source_tree(folder: Path, *, canary: str) -> Path:
    """A copy of what a build may see, strewn with what it must not take along."""
    for name in _CONTEXT:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    for name in (".env", "mover.yaml", "deploy/passphrase", "mover/prism-password"):
        (folder / name).write_text(f"{canary}\n")
    return folder


def _driver(common: list[str]) -> str:
    """overlay copies nothing; vfs works where that does not (a container, an odd file system)."""
    tried = _run(["buildah", *common, "--storage-driver", "overlay", "info"])
    return "overlay" if tried.code == 0 else "vfs"


def here() -> tuple[str, ...]:
    """Without systemd there is no timer for health checks; where limits may not be raised they are named."""
    return "--no-healthcheck", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"


def _podman_groups() -> list[Path]:
    """Control groups that podman makes beside a container's own, and leaves."""
    return [path for path in Path("/sys/fs/cgroup").glob("**/libpod_parent/**/") if path.is_dir()]


def _removed(group: Path) -> None:
    """The last of podman's helpers may still be about to end in it."""
    began = stopwatch()
    while True:
        try:
            return group.rmdir()
        except OSError:
            if stopwatch() - began > 5:
                raise
            pause(0.05)


def _run(command: list[str], **how: Any) -> Done:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, **how)
    return Done(done.returncode, done.stdout, done.stderr)
