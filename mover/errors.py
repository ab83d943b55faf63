"""The error tree: every failure a person can meet, with its code, remedy and exit code.

One class is one code. The family (first level) decides the exit code of the command
line. The same text goes to the log, the terminal and the API. Nothing else in the
project defines an exception that a user can see.
"""

from __future__ import annotations

from typing import Any, ClassVar


class MoverError(Exception):
    """What happened, to what, why, and what to do.

    message: one sentence, names the thing concerned. remedy: one sentence in the
    imperative, never empty. retryable: the same call may succeed later unchanged.
    facts: plain values (str, int, float, bool, list of these) for logs and ``--json``.
    """

    code: ClassVar[str] = "mover"
    exit_code: ClassVar[int] = 1
    retryable: bool = False

    def __init__(self, message: str, *, remedy: str, retryable: bool | None = None, **facts: Any):
        if not remedy.strip():
            raise ValueError(f"{type(self).__name__} needs a remedy")
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.facts: dict[str, Any] = facts
        if retryable is not None:
            self.retryable = retryable

    def as_dict(self) -> dict[str, Any]:
        """The form that logs, ``--json`` and the API share."""
        return {
            "code": self.code,
            "message": self.message,
            "remedy": self.remedy,
            "retryable": self.retryable,
            "facts": self.facts,
        }

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.remedy, self.retryable, self.facts)


def _rebuild(kind: type[MoverError], message: str, remedy: str, retryable: bool, facts: dict[str, Any]) -> MoverError:
    error = kind(message, remedy=remedy, retryable=retryable)
    error.facts = facts
    return error


# --- 2: what the user wrote ---------------------------------------------------------


class UsageError(MoverError):
    """The command line or a file of the user's cannot be acted on."""

    code = "usage"
    exit_code = 2


class ConfigError(UsageError):
    """A setting is missing, malformed or contradicts another."""

    code = "config"


class UnknownSetting(ConfigError):
    """A key that no setting has; the nearest name is offered."""

    code = "config.unknown-key"


class NoSuchVm(UsageError):
    """A VM name or pattern matches nothing."""

    code = "select.none"


class AmbiguousName(UsageError):
    """A name matches several things where one is wanted."""

    code = "select.ambiguous"


class NoSuchPoint(UsageError):
    """A restore point id (or prefix) matches nothing in the repository."""

    code = "select.no-point"


class TargetExists(UsageError):
    """A file, VM slot or repository that would be overwritten exists already."""

    code = "target.exists"


# --- 3: the hypervisor --------------------------------------------------------------


class HypervisorError(MoverError):
    """A call to Prism failed in a way that no subclass describes."""

    code = "hypervisor"
    exit_code = 3


class HypervisorUnreachable(HypervisorError):
    """No answer, or an answer that is not Prism's (HTML from its gateway)."""

    code = "hypervisor.unreachable"
    retryable = True


class CertificateRejected(HypervisorError):
    """TLS: unknown issuer or a fingerprint other than the pinned one."""

    code = "hypervisor.certificate"


class LoginRefused(HypervisorError):
    """401 on Basic: sent again only after long pauses, since accounts lock out."""

    code = "hypervisor.login"


class RightsMissing(HypervisorError):
    """403: the user exists but may not do this."""

    code = "hypervisor.rights"


class NotFound(HypervisorError):
    """The VM, snapshot, container or task does not exist (any more)."""

    code = "hypervisor.not-found"


class Conflict(HypervisorError):
    """409: somebody else changed the object; read again, then repeat."""

    code = "hypervisor.conflict"
    retryable = True


class Overloaded(HypervisorError):
    """429 or 503 beyond the retry budget."""

    code = "hypervisor.overloaded"
    retryable = True


class RequestRefused(HypervisorError):
    """400 or 422: the request itself was refused."""

    code = "hypervisor.refused"


class TaskFailed(HypervisorError):
    """A Prism task ended FAILED or ABORTED."""

    code = "hypervisor.task-failed"


class EffectUnknown(HypervisorError):
    """A change was sent, its answer was lost: look, never send again."""

    code = "hypervisor.effect-unknown"


class SnapshotIncomplete(HypervisorError):
    """A snapshot lacks the file of a disk, or never became complete."""

    code = "hypervisor.snapshot-incomplete"


class ConsistencyDowngraded(HypervisorError):
    """Application consistency was asked, something less was made."""

    code = "hypervisor.consistency"


class ChangedRegionsInvalid(HypervisorError):
    """A list of changed regions breaks the rules of its own interface."""

    code = "hypervisor.changed-regions"


class BaseGone(HypervisorError):
    """The base snapshot of an incremental does not exist any more."""

    code = "hypervisor.base-gone"


class NoFreeSlot(HypervisorError):
    """The VM has no free SCSI slot."""

    code = "hypervisor.no-free-slot"


class SlotOccupied(HypervisorError):
    """The slot asked for holds another disk."""

    code = "hypervisor.slot-occupied"


class ProxyUnfit(HypervisorError):
    """The Proxy VM is not found, off, in another cluster, or is the VM to be backed up."""

    code = "hypervisor.proxy"


class UnsupportedEndpoint(HypervisorError):
    """The address is a Prism that cannot do this job (Central without its Element, no v3)."""

    code = "hypervisor.unsupported"


# --- 4: block devices ---------------------------------------------------------------


class DeviceError(MoverError):
    """A block device could not be used."""

    code = "device"
    exit_code = 4


class DeviceAbsent(DeviceError):
    """The attached disk did not appear in time."""

    code = "device.absent"


class DeviceRefused(DeviceError):
    """A device whose identity is not proven, or that is not ours: never touched."""

    code = "device.refused"


class DeviceBusy(DeviceError):
    """Something on the node holds the device: a mount, LVM, multipath, md."""

    code = "device.busy"


class DeviceFault(DeviceError):
    """A read or write failed; facts name the exact byte range."""

    code = "device.io"


class GuardRefused(DeviceError):
    """This node would activate an attached guest volume."""

    code = "device.guard"


class DeviceRightsMissing(DeviceError):
    """This process may not use block devices: a container or unit without the rights, /dev or /sys."""

    code = "device.rights"


# --- 5: the store -------------------------------------------------------------------


class StorageError(MoverError):
    """A store failed in a way that no subclass describes."""

    code = "storage"
    exit_code = 5


class StoreUnreachable(StorageError):
    """The store does not answer, or not in time."""

    code = "storage.unreachable"
    retryable = True


class StoreDenied(StorageError):
    """Credentials or rights are refused, or the store is read-only."""

    code = "storage.denied"


class StoreFull(StorageError):
    """No space or quota left."""

    code = "storage.full"


class ObjectMissing(StorageError):
    """An object that should exist does not."""

    code = "storage.missing"


class ObjectExists(StorageError):
    """Create-only put of a name that exists with other content."""

    code = "storage.exists"


class StoreUnfit(StorageError):
    """The store breaks a promise that the repository needs."""

    code = "storage.unfit"


# --- 6: the repository --------------------------------------------------------------


class RepositoryError(MoverError):
    """The repository cannot be used as asked."""

    code = "repository"
    exit_code = 6


class RepositoryMissing(RepositoryError):
    """There is no repository at this place."""

    code = "repository.missing"


class WrongKey(RepositoryError):
    """The passphrase opens none of the key slots."""

    code = "repository.key"


class FormatUnsupported(RepositoryError):
    """Written by a newer version, or with a feature that this one lacks."""

    code = "repository.format"


class Damaged(RepositoryError):
    """An object is not what was written: refused. facts: object, and what depends on it."""

    code = "repository.damaged"


class SessionVoided(RepositoryError):
    """This writer was declared dead by a collector; its point cannot be committed."""

    code = "repository.session-voided"


class PointConflict(RepositoryError):
    """A point of this id exists and was committed by another session."""

    code = "repository.point-conflict"


class PointPinned(RepositoryError):
    """The point is the base of the next incremental."""

    code = "repository.point-pinned"


# --- 7: jobs ------------------------------------------------------------------------


class JobError(MoverError):
    """A job did not end well."""

    code = "job"
    exit_code = 7


class JobFailed(JobError):
    """One or more VMs of the run failed; each has its own error."""

    code = "job.failed"


class JobInterrupted(JobError):
    """Stopped before its end; the next start finishes or cleans."""

    code = "job.interrupted"


class JobCancelled(JobError):
    """Ended in order because somebody asked for it."""

    code = "job.cancelled"


class HookFailed(JobError):
    """A pre- or post-snapshot command failed against its policy."""

    code = "job.hook"


class StateFolderBusy(JobError):
    """Another process is the executor of this state folder."""

    code = "job.state-busy"


class DaemonUnwell(JobError):
    """The daemon does not answer, or says that it is not well."""

    code = "job.daemon"


class StateDamaged(JobError):
    """A file in the state folder is not what was written there, or cannot be used."""

    code = "job.state-damaged"


class StateFull(JobError):
    """The file system of the state folder is full; what ran there is continued later."""

    code = "job.state-full"


class SpaceShort(JobError):
    """The container or the store has not enough room for what is planned."""

    code = "job.space"


class LabError(JobError):
    """The lab cannot make, attach or change a simulated disk on this machine."""

    code = "lab"


def all_errors() -> list[type[MoverError]]:
    """Every class of the tree, the root first (docs and tests walk it)."""
    found, queue = [], [MoverError]
    while queue:
        kind = queue.pop(0)
        found.append(kind)
        queue.extend(kind.__subclasses__())
    return found
