"""3: the hypervisor, as Prism or its network fails."""

from __future__ import annotations

from mover.errors.base import MoverError


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
