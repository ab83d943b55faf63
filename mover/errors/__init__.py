"""The error tree: every failure a person can meet, with its code, remedy and exit code.

One class is one code. The family (first level, a module each) decides the exit code of the
command line. The same text goes to the log, the terminal and the API. Nothing else in the
project defines an exception that a user can see; whoever raises or catches one imports it from here.
"""

from __future__ import annotations

from mover.errors.base import MoverError, _rebuild
from mover.errors.device import (
    DeviceAbsent,
    DeviceBusy,
    DeviceError,
    DeviceFault,
    DeviceRefused,
    DeviceRightsMissing,
    GuardRefused,
)
from mover.errors.hypervisor import (
    BaseGone,
    CertificateRejected,
    ChangedRegionsInvalid,
    Conflict,
    ConsistencyDowngraded,
    EffectUnknown,
    HypervisorError,
    HypervisorUnreachable,
    LoginRefused,
    NoFreeSlot,
    NotFound,
    Overloaded,
    ProxyUnfit,
    RequestRefused,
    RightsMissing,
    SlotOccupied,
    SnapshotIncomplete,
    TaskFailed,
    UnsupportedEndpoint,
)
from mover.errors.jobs import (
    DaemonUnwell,
    HookFailed,
    JobCancelled,
    JobError,
    JobFailed,
    JobInterrupted,
    LabError,
    SpaceShort,
    StateDamaged,
    StateFolderBusy,
    StateFull,
)
from mover.errors.repository import (
    Damaged,
    FormatUnsupported,
    PointConflict,
    PointPinned,
    RepositoryError,
    RepositoryMissing,
    SessionVoided,
    WrongKey,
)
from mover.errors.storage import (
    ObjectExists,
    ObjectMissing,
    StorageError,
    StoreDenied,
    StoreFull,
    StoreUnfit,
    StoreUnreachable,
)
from mover.errors.usage import (
    AmbiguousName,
    ConfigError,
    NoSuchPoint,
    NoSuchVm,
    TargetExists,
    UnknownSetting,
    UsageError,
)


def all_errors() -> list[type[MoverError]]:
    """Every class of the tree, the root first (docs and tests walk it)."""
    found, queue = [], [MoverError]
    while queue:
        kind = queue.pop(0)
        found.append(kind)
        queue.extend(kind.__subclasses__())
    return found


# Pickles of steps' errors stay in state folders: no name in them may depend on how the tree is cut into modules.
for _named in (*all_errors(), _rebuild):
    _named.__module__ = __name__

__all__ = [
    "MoverError",
    "all_errors",
    # 2: what the user wrote
    "UsageError",
    "ConfigError",
    "UnknownSetting",
    "NoSuchVm",
    "AmbiguousName",
    "NoSuchPoint",
    "TargetExists",
    # 3: the hypervisor, as Prism or its network fails
    "HypervisorError",
    "HypervisorUnreachable",
    "CertificateRejected",
    "LoginRefused",
    "RightsMissing",
    "NotFound",
    "Conflict",
    "Overloaded",
    "RequestRefused",
    "TaskFailed",
    "EffectUnknown",
    "SnapshotIncomplete",
    "ConsistencyDowngraded",
    "ChangedRegionsInvalid",
    "BaseGone",
    "NoFreeSlot",
    "SlotOccupied",
    "ProxyUnfit",
    "UnsupportedEndpoint",
    # 4: block devices of the node
    "DeviceError",
    "DeviceAbsent",
    "DeviceRefused",
    "DeviceBusy",
    "DeviceFault",
    "GuardRefused",
    "DeviceRightsMissing",
    # 5: the store, before anything of a repository is known
    "StorageError",
    "StoreUnreachable",
    "StoreDenied",
    "StoreFull",
    "ObjectMissing",
    "ObjectExists",
    "StoreUnfit",
    # 6: the repository
    "RepositoryError",
    "RepositoryMissing",
    "WrongKey",
    "FormatUnsupported",
    "Damaged",
    "SessionVoided",
    "PointConflict",
    "PointPinned",
    # 7: jobs, the state folder they are kept in, and the lab
    "JobError",
    "JobFailed",
    "JobInterrupted",
    "JobCancelled",
    "HookFailed",
    "StateFolderBusy",
    "DaemonUnwell",
    "StateDamaged",
    "StateFull",
    "SpaceShort",
    "LabError",
]
