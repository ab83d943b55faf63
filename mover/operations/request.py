"""What is ordered: the values of a job, made where the user speaks, kept with the job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mover.clock import Clock
from mover.config import BackupSettings, HookSettings, RepositorySettings
from mover.jobs.steps import Values
from mover.model.machine import Consistency, Vm
from mover.operations.values import dump, load
from mover.storage.address import FolderAddress, parse_address

BACKUP = "backup"
RESTORE = "restore"
RESTORE_DISK = "restore-disk"
"""Names of the durable operations."""


REPOSITORY = "repository"
"""Key of an order: the address of the repository that it was meant for."""


def place_of(repository: RepositorySettings) -> str:
    """Where the repository is, in the form in which two are compared. Raises UsageError."""
    address = parse_address(repository.url)
    if isinstance(address, FolderAddress):
        return str(address.path.absolute())
    bucket = f"s3://{address.bucket}/{address.prefix}".rstrip("/")
    endpoint = repository.store.get("endpoint", "").rstrip("/")
    return f"{bucket} at {endpoint}" if endpoint else bucket


@dataclass(frozen=True, slots=True)
class BackupRequest:
    """One VM to be backed up. The point's id is fixed here: of all attempts, one can commit."""

    vm_uuid: str
    vm_name: str
    point_id: str
    full: bool = False
    exclude: tuple[str, ...] = ()
    consistency: Consistency = Consistency.CRASH
    on_downgrade: str = "fail"
    keep_base: bool = True
    full_every_s: float = 0.0
    pre_snapshot: Mapping[str, Any] = field(default_factory=dict)
    post_snapshot: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, vm: Vm, settings: BackupSettings, clock: Clock, *, full: bool = False, exclude: tuple[str, ...] = ()
    ) -> BackupRequest:
        """From the settings (flags are merged into them before)."""
        return cls(
            vm_uuid=vm.uuid,
            vm_name=vm.name,
            point_id=clock.new_uuid(),
            full=full,
            exclude=exclude,
            consistency=Consistency(settings.consistency),
            on_downgrade=settings.on_downgrade,
            keep_base=settings.keep_base,
            full_every_s=settings.full_every,
            pre_snapshot=settings.pre_snapshot.model_dump(),
            post_snapshot=settings.post_snapshot.model_dump(),
        )

    def hook(self, which: str) -> HookSettings:
        """which: pre or post."""
        return HookSettings.model_validate(dict(self.pre_snapshot if which == "pre" else self.post_snapshot))

    def values(self) -> Values:
        return dump(self)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> BackupRequest:
        return load(cls, dict(values))


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """A restore point to become a new VM."""

    point_id: str
    name: str
    nic_mode: str = "auto"
    """keep | new-mac | disconnected | auto: disconnected while the original lives, else keep."""
    network_map: Mapping[str, str] = field(default_factory=dict)
    container_map: Mapping[str, str] = field(default_factory=dict)
    """Saved container, by UUID or by the name of one that is here, or ``*`` → container here, by UUID or name."""
    power_on: bool = False

    def values(self) -> Values:
        return dump(self)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> RestoreRequest:
        return load(cls, dict(values))


@dataclass(frozen=True, slots=True)
class RestoreDiskRequest:
    """One disk of a restore point to be added to an existing VM, at a free slot."""

    point_id: str
    disk: str
    """Its slot in the point, ``scsi.1``."""
    vm_uuid: str
    slot: str | None = None
    """Where to; None: the lowest free SCSI slot."""
    container_uuid: str | None = None

    def values(self) -> Values:
        return dump(self)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> RestoreDiskRequest:
        return load(cls, dict(values))
