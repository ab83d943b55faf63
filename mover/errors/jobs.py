"""7: jobs, the state folder they are kept in, and the lab."""

from __future__ import annotations

from mover.errors.base import MoverError


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
