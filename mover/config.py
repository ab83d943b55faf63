"""Every setting with its default, and the reason for that default; nowhere else.

``mover.settings`` reads them from file, environment and flags.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from mover.errors import UsageError
from mover.units import GIB, KIB, MIB, parse_duration, parse_size


def _size(value: Any) -> Any:
    return _spoken(parse_size, value)


def _duration(value: Any) -> Any:
    return _spoken(parse_duration, value)


def _spoken(parse: Any, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return parse(value)
    except UsageError as error:
        raise ValueError(error.message) from error


Size = Annotated[int, BeforeValidator(_size), Field(ge=0)]
Seconds = Annotated[float, BeforeValidator(_duration), Field(ge=0)]

FIRST_BLOCK_BYTES = 512 * KIB
"""Block and what it is compressed to lie in a core's second cache of 1 MiB."""
AUTO = 0
"""data.block_size: each disk has its own, found by how it changes."""


def _block_size(value: Any) -> Any:
    if value == "auto":
        return AUTO
    size = _size(value)
    if size == AUTO:
        raise ValueError("0 is no size of blocks; auto lets each disk have its own")
    return size


BlockSize = Annotated[int, BeforeValidator(_block_size), Field(ge=0)]


class Section(BaseModel):
    """A group of settings; immutable once read."""

    # The strings below the settings are read by settings.reasons: pydantic would parse this file at every start.
    model_config = ConfigDict(extra="forbid", frozen=True)


class NodeSettings(Section):
    name: str = "node1"
    """This node's name; part of the names of what it makes on a cluster."""
    proxy_uuid: str | None = None
    """UUID of the Proxy VM, where the SMBIOS UUID is not the VM's (restored Proxy VMs)."""
    device_root: Path = Path("/")
    """Where sys/ and dev/ are looked for. The lab gives its own; a real node keeps "/"."""
    allow_regular_files: bool = False
    """Accept direct-I/O files as devices: only a lab without root has those."""
    device_timeout: Seconds = 30.0
    """A hot-plugged disk appears within 1-2 s; after 30 s it will not come by itself."""
    trust_slot: bool = False
    """Accept a new device in the right slot without a serial that proves it.
    Off: a wrong guess reads or overwrites a stranger's disk."""
    check_guard: bool = True
    """Refuse to attach where LVM, multipath, md or an automounter would activate a guest's volume."""
    check_rights: bool = True
    """Begin no job where container, unit or kernel keep this process from using block devices."""
    first_slot: int = Field(default=1, ge=0, le=255)
    """Lowest SCSI index that attachments may use; slots below stay the administrator's."""


class PrismSettings(Section):
    url: str = ""
    """Element or Central, as users write it: with or without port and path."""
    username: str = ""
    """A cluster-admin user. With a Central the same user must exist on its Element."""
    password: SecretStr = SecretStr("")
    """Its password: better from password_file."""
    password_file: Path | None = None
    """A file that holds the password alone."""
    ca_file: Path | None = None
    """PEM bundle that signs Prism's certificate."""
    fingerprint: str | None = None
    """SHA-256 of Prism's certificate, for the self-signed factory one. Several (Central, Element): comma-separated."""
    verify: Literal["yes", "no-i-accept-the-risk"] = "yes"
    """TLS is checked unless switched off in these words."""
    cluster: str | None = None
    """Name or UUID of the cluster behind a Central, where it has several."""
    element_url: str | None = None
    """Address of the Element, where the Central's record of it cannot be reached from here."""
    max_calls: int = Field(default=8, ge=1, le=64)
    """Calls in flight: v4 allows about 10 a second per user; v3 suffers beyond a handful."""
    call_timeout: Seconds = 30.0
    """The vendor's own client uses 30 s."""
    task_timeout: Seconds = 1800.0
    """VSS snapshots take minutes; half an hour is the reference's ceiling."""
    retry_budget: Seconds = 300.0
    """How long a call may wait out 429, 503 and gateway restarts (upgrades take minutes)."""
    snapshot_life: Seconds = 14 * 86400.0
    """Expiry of our snapshots: longer than the longest gap between two backups, or the base is lost."""
    on_central_down: Literal["note", "fail"] = "note"
    """A Central that stops answering while the Element works: categories are then missing, and the point says so.
    fail: no point without them."""


class RepositorySettings(Section):
    url: str = ""
    """Folder path, or s3://bucket/prefix."""
    passphrase: SecretStr = SecretStr("")
    """Opens the repository's key: better from passphrase_file."""
    passphrase_file: Path | None = None
    """A file that holds the passphrase alone."""
    cache_dir: Path | None = None
    """Local index; default: below state_dir. Can be deleted at any time."""
    store: dict[str, str] = Field(default_factory=dict)
    """Options of the store (endpoint, region, access_key_id, …), as its documentation names them."""
    secret_access_key_file: Path | None = None
    """A file that holds the store's secret key alone."""
    uploads: int = Field(default=2, ge=1, le=16)
    """Packs in flight to the store. On loopback more buys nothing; over a WAN raise it."""
    pack_size: Size = 32 * MIB
    """64 MiB gained no speed and cost 100 MiB of memory; smaller ones cost requests."""
    paranoid: bool = False
    """Open and compare every sealed record before it counts as stored, instead of one in 16."""
    heartbeat: Seconds = Field(default=60.0, ge=1)
    """How often a session rewrites its heartbeat."""


class DataSettings(Section):
    block_size: BlockSize = FIRST_BLOCK_BYTES
    """256KiB to 4MiB, or auto. A block that changes is stored whole: beside 1 MiB, 512 KiB stores a quarter less of
    scattered changes in two thirds of the time, a full takes as long, a restore up to a tenth longer. 256 KiB stores
    still less of a database's changes and lets a node of 16 cores move 1.7 GB/s; 4 MiB stores up to 2.6 times as much
    as 1 MiB. auto: each disk begins with 512 KiB; a week of its changes decides, with the reason in the report."""
    level: int = Field(default=1, ge=-7, le=19)
    """zstd level. 3 costs some 70 % more CPU for 4 % less space, -1 saves some 5 % of it for 9 % more space."""
    compute_threads: int = Field(default=0, ge=0, le=256)
    """0: as many as cores. Compression is the bottleneck; more threads only fight for the GIL."""
    readers: int = Field(default=4, ge=1, le=64)
    """Reads in flight per disk: 4 saturate a local device; network-attached ones may want 16."""
    restore_threads: int = Field(default=6, ge=1, le=64)
    """Threads that open blocks and write the device: while some wait for it, others open."""
    budget: Size = 128 * MIB
    """Bytes in flight in the process: buffers and packs. The bound of memory."""
    read_size: Size = 4 * MIB
    """Longest single read while half of the budget is free, else one block; also what one task of a thread holds.
    4 MiB take 7 % less CPU for a full backup than 1 MiB, a quarter less where nothing changed, and 20 MiB more memory.
    """
    audit_blocks: int = Field(default=64, ge=0)
    """Blocks per class (unchanged, zeroed, unlisted) compared in each run.
    A list that lies about 5 % of a class is found with 96 %."""
    audit_full: bool = False
    """Compare every block with what the changed regions say: finds any lie, costs a full read."""
    compare_within: Seconds = 90 * 86400.0
    """Every block is read within this time, as data or to compare it with what the changed regions say,
    so a lie about a single block does not outlive it. 90 days read 1.1 % of a disk more in a daily run;
    one run compares at most half of a disk. 0: only samples are compared."""
    readback_blocks: int = Field(default=64, ge=0)
    """Blocks read back from a restored disk and compared."""

    @property
    def first_block_bytes(self) -> int:
        """The size of blocks of a disk that nothing is known of."""
        return self.block_size or FIRST_BLOCK_BYTES


class LimitSettings(Section):
    vms: int = Field(default=2, ge=1)
    """VMs side by side on this node: two keep the pipeline full while one of them waits for Prism."""
    disks: int = Field(default=4, ge=1)
    """Disks copied at a time on this node: one disk seldom fills the pipeline."""
    attached: int = Field(default=16, ge=1, le=250)
    """Disks of ours on the Proxy VM at a time, backups and restores together. What an earlier job could not
    detach counts too, so that leftovers never fill the VM: AHV allows 256 SCSI devices."""
    per_container: int = Field(default=4, ge=1)
    """Disks read from or filled in one storage container at a time. As many as limits.disks, since containers
    mostly share their cluster's disks; lower it where one of them is slow or busy."""
    container_free: Size = 10 * GIB
    """Free space that a storage container must keep for the snapshot's growth."""
    store_free: Size = GIB
    """Free space that the store must keep, so that it can still be cleaned up."""
    job_history: Seconds = Field(default=30 * 86400.0, ge=3600)
    """How long jobs that have ended stay in mover job list; of more than 10,000 the newest. No point needs them."""


class HookSettings(Section):
    command: list[str] = Field(default_factory=list)
    """Program and arguments; {vm_name}, {vm_uuid}, {job_id} are replaced. Empty: none."""
    timeout: Seconds = 60.0
    """Killed after this; a frozen application must not wait for ever."""
    on_failure: Literal["fail", "warn"] = "fail"
    """What an exit code that is not accepted does to the job."""
    accept: list[int] = Field(default_factory=lambda: [0])
    """Exit codes that count as success."""


class BackupSettings(Section):
    consistency: Literal["crash", "application"] = "crash"
    """Application consistency needs guest tools; crash consistency always works."""
    on_downgrade: Literal["fail", "warn"] = "fail"
    """What to do when application consistency was asked and not reached."""
    keep_base: bool = True
    """Keep the snapshot as the base of the next incremental: it costs the space of what changes."""
    pre_snapshot: HookSettings = HookSettings()
    """Run on this node before the snapshot."""
    post_snapshot: HookSettings = HookSettings()
    """Run on this node right after it; owed from before the first one runs until it has run."""
    full_every: Seconds = 0.0
    """Read a disk in full when its last full read is older; 0: never."""


class ServeSettings(Section):
    host: str = Field(default="127.0.0.1", min_length=1)
    """Loopback: metrics name VMs. Bind another address knowingly: an empty one would be all of them."""
    port: int = Field(default=9464, ge=0, le=65535)
    """The port that OpenTelemetry exporters use by custom."""
    reconcile_every: Seconds = Field(default=300.0, ge=1)
    """How often the daemon compares the ledger with the cluster."""
    disk_series: int = Field(default=128, ge=1, le=4096)
    """Disks with series of their own in /metrics, some 20 each: 64 in flight and as many just done.
    The others count in the node's totals alone."""
    series_grace: Seconds = 300.0
    """How long the series of a disk stay after its end. Longer than two scrapes, or its last bytes are not seen."""


class LogSettings(Section):
    level: Literal["auto", "debug", "info", "warning", "error"] = "auto"
    """What is logged. auto: info for the daemon, warnings for commands, whose tables say the rest."""
    format: Literal["auto", "text", "json"] = "auto"
    """auto: text on a terminal, JSON elsewhere."""


def default_state_dir() -> Path:
    """``/var/lib/mover`` for root, the XDG state folder for others."""
    if os.geteuid() == 0:
        return Path("/var/lib/mover")
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "mover"


class Settings(Section):
    state_dir: Path = Field(default_factory=default_state_dir)
    """Jobs, ledger, local index, lock. Must survive restarts."""
    node: NodeSettings = NodeSettings()
    prism: PrismSettings = PrismSettings()
    repository: RepositorySettings = RepositorySettings()
    data: DataSettings = DataSettings()
    limits: LimitSettings = LimitSettings()
    backup: BackupSettings = BackupSettings()
    serve: ServeSettings = ServeSettings()
    log: LogSettings = LogSettings()
