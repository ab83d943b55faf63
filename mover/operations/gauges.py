"""What the metrics say of a VM: from its newest committed point, and from nothing else."""

from __future__ import annotations

from mover import logs
from mover.errors import Damaged, NoSuchPoint
from mover.metrics import VM_CONSISTENCY, VM_FULL_REASON, VM_LAST_SUCCESS, VM_UNPROTECTED_VGS
from mover.model.machine import Consistency, DiskKind
from mover.model.point import RestorePoint
from mover.operations.ports import Repository
from mover.operations.report import classes_of_full

_LOG = logs.get(__name__)


def publish(point: RestorePoint) -> None:
    """This is the newest committed point of its VM."""
    groups = sum(other.kind is DiskKind.VOLUME_GROUP for other in point.others)
    VM_LAST_SUCCESS.labels(point.vm_name).set(point.created_at)
    VM_CONSISTENCY.labels(point.vm_name).set(point.consistency is Consistency.APPLICATION)
    VM_UNPROTECTED_VGS.labels(point.vm_name).set(groups)
    for reason, holds in classes_of_full(point.disks).items():
        VM_FULL_REASON.labels(point.vm_name, reason).set(holds)


async def publish_newest(repository: Repository) -> None:
    """The same for every VM in the repository, so that the metrics outlive a restart. Raises StorageError."""
    newest = {point.vm_uuid: point for point in await repository.points() if not point.problem}
    for summary in sorted(newest.values(), key=lambda point: point.created_at):
        try:
            publish(await repository.load(summary))
        except (Damaged, NoSuchPoint) as error:
            _LOG.warning("no metrics of a point", point=summary.id, error=error.message)
