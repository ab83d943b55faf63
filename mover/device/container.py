"""Whether this is a container, and what the place where mover runs gives and takes: the lines for ``mover check``.

Rights are in ``rights``, the numbers of control groups in ``cgroup``; here they are held
against what the settings want. Blocking; changes nothing but a folder of a moment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from mover.config import Settings
from mover.device.cgroup import Limits, limits
from mover.device.mountinfo import MountPoint, mount_of, mount_points
from mover.device.rights import Kernel, NodeFinding, RunningKernel, inspect_rights, text_of
from mover.units import MIB, format_size

BASE_BYTES = 96 * MIB
"""What the process needs beside the budget: a full backup with the default budget of 128 MiB peaked at 155 MiB."""
BASE_TASKS = 48
"""Threads beside readers and workers: 18 when idle, the rest for stores, hooks and the engine under load."""
_FLEETING = {"tmpfs", "ramfs"}
_LAYERED = {"overlay", "fuse.fuse-overlayfs", "aufs"}
_NAMES = re.compile(r"/(docker|libpod|kubepods|containerd|crio|lxc|buildah)[-./]")
_UNNAMED = re.compile(r"/volumes/[0-9a-f]{64}/_data|/kubernetes\.io~empty-dir/")


@dataclass(frozen=True, slots=True)
class Container:
    """facts: by what it was recognised, for people."""

    kind: str
    facts: tuple[str, ...]


def recognise(root: Path, environment: Mapping[str, str]) -> Container | None:
    """The container that this process is in, by files, environment and control group; None outside of one."""
    facts = dict(_facts(root, environment))
    if not facts:
        return None
    return Container(kind=next((kind for kind in facts.values() if kind), "container"), facts=tuple(facts))


def _facts(root: Path, environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(what was seen, the kind that it tells or "")"""
    if environment.get("KUBERNETES_SERVICE_HOST"):
        yield "KUBERNETES_SERVICE_HOST is set", "kubernetes"
    if (root / "run/.containerenv").exists():
        yield "/run/.containerenv", "podman"
    if (root / ".dockerenv").exists():
        yield "/.dockerenv", "docker"
    if environment.get("container"):
        yield f"container={environment['container']} is set", environment["container"]
    told = text_of(root / "run/systemd/container").strip()
    if told:
        yield "/run/systemd/container", told
    match = _NAMES.search(text_of(root / "proc/self/cgroup"))
    if match:
        yield f"control group of {match[1]}", match[1]


def inspect_place(settings: Settings, folders: Mapping[str, Path]) -> list[NodeFinding]:
    """All findings about the process and the machine below it; none for a lab, whose devices are its own affair.

    folders: what must outlive the process, by name.
    """
    if settings.node.device_root != Path("/"):
        return []
    scratch = (settings.state_dir, Path("/tmp"))  # noqa: S108 - a folder with a name of chance is made in it
    return inspect_below(Path("/"), settings, folders, RunningKernel(*scratch), os.environ)


def inspect_below(
    root: Path, settings: Settings, folders: Mapping[str, Path], kernel: Kernel, environment: Mapping[str, str]
) -> list[NodeFinding]:
    """``inspect_place`` for any root folder, kernel and environment."""
    try:
        points, bounds = mount_points(root), limits(root)
    except OSError as error:
        what = f"This process's own mounts and control groups cannot be read: {error}"
        return [NodeFinding("/proc", "problem", what, "Give it a /proc of its own.", stops=True)]
    place = recognise(root, environment)
    found = [] if place is None else [_container(place)]
    found += inspect_rights(root, points, bounds.device_rules, kernel, in_container=place is not None)
    found += _bounds(bounds, settings)
    return [*found, *(_durable(name, path, points, place) for name, path in folders.items())]


def _container(place: Container) -> NodeFinding:
    return NodeFinding("runs in", "ok", f"a container ({place.kind}; seen by {', '.join(place.facts)})")


def _bounds(bounds: Limits, settings: Settings) -> list[NodeFinding]:
    found = [_memory(bounds, settings), _cores(bounds, settings), _tasks(bounds, settings)]
    if bounds.throttles:
        what = f"The control group limits io: {'; '.join(bounds.throttles)}."
        remedy = "Lift it (--device-read-bps and its like, IOReadBandwidthMax=), or expect backups no faster."
        found.append(NodeFinding("io limits", "note", what, remedy))
    return found


def _memory(bounds: Limits, settings: Settings) -> NodeFinding:
    wanted = settings.data.budget + BASE_BYTES
    if bounds.memory_bytes is None:
        return NodeFinding("memory", "ok", "no limit of a control group")
    what = f"{format_size(bounds.memory_bytes)} allowed, {format_size(wanted)} wanted (data.budget and the process)"
    if bounds.memory_bytes >= wanted:
        return NodeFinding("memory", "ok", what)
    remedy = "Raise the limit (--memory, MemoryMax=), or lower data.budget: beyond it the kernel kills the process."
    return NodeFinding("memory", "problem", what, remedy)


def _cores(bounds: Limits, settings: Settings) -> NodeFinding:
    threads = _compute_threads(settings)
    if bounds.cores is None:
        return NodeFinding("processors", "ok", f"no quota; {threads} compute threads")
    what = f"a quota of {bounds.cores:g} processors for {threads} compute threads"
    if bounds.cores >= threads:
        return NodeFinding("processors", "ok", what)
    remedy = f"Raise it (--cpus, CPUQuota=), or set data.compute_threads to {max(1, int(bounds.cores))}: "
    return NodeFinding(
        "processors", "note", what, remedy + "more threads than quota stop all at once, again and again."
    )


def _tasks(bounds: Limits, settings: Settings) -> NodeFinding:
    data = settings.data
    wanted = BASE_TASKS + _compute_threads(settings) + data.restore_threads + data.readers * settings.limits.disks
    if bounds.tasks is None:
        return NodeFinding("threads", "ok", "no limit of a control group")
    what = f"{bounds.tasks} allowed, {wanted} wanted"
    if bounds.tasks >= wanted:
        return NodeFinding("threads", "ok", what)
    remedy = "Raise the limit (--pids-limit, TasksMax=), or lower data.readers or limits.disks."
    return NodeFinding("threads", "problem", what, remedy)


def _compute_threads(settings: Settings) -> int:
    return settings.data.compute_threads or len(os.sched_getaffinity(0))


def _durable(name: str, path: Path, points: Sequence[MountPoint], place: Container | None) -> NodeFinding:
    subject = f"{name} kept"
    point = mount_of(PurePath(path.resolve()), points)
    kind = point.kind if point is not None else "nothing"
    if point is None or kind in _FLEETING:
        return NodeFinding(subject, "problem", f"{path} is on {kind}: lost at the next restart.", _volume(path, place))
    if place is None:
        return NodeFinding(subject, "ok", f"{path} is on {point.target} ({kind})")
    if point.target == PurePath("/") or kind in _LAYERED:
        what = f"{path} is in the container's own file system ({kind}): lost with the container."
        return NodeFinding(subject, "problem", what, _volume(path, place))
    if _UNNAMED.search(point.source_root):
        what = f"{path} is on a volume without a name: the next container gets another one."
        return NodeFinding(subject, "problem", what, _volume(path, place))
    return NodeFinding(subject, "ok", f"{path} is on the volume {point.target} ({kind})")


def _volume(path: Path, place: Container | None) -> str:
    if place is None:
        return "Choose a folder on a disk of this node."
    return f"Start the container with --volume NAME:{path} (a named volume or a folder of the host)."
