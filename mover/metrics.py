"""Every instrument, declared once. Names are stable; base units; bounded labels.

The table of all of them, with the alerts that use each, is deploy/REFERENCE.md, written from
here; a test holds the two together. Nothing says success that is not a committed manifest.
Timestamps are Unix seconds; 0 means not since this process began, unless the text says more.
"""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

# A gauge with the birth of each counter would double their series, and nobody asks for it.
disable_created_metrics()  # type: ignore[no-untyped-call] # the library has no types here

REGISTRY = CollectorRegistry()
PROCESS = ProcessCollector(registry=REGISTRY)
"""Memory, descriptors, processor time, start: ``process_*``, as every exporter has them."""
UNKNOWN = float("nan")
"""Of a gauge that nothing has been seen of yet: it compares as neither good nor bad."""

Instrument = Gauge
"""For signatures elsewhere: the library stays behind this door."""

_DISK = ("vm", "disk")
_STAGE = ("vm", "disk", "stage")

BUILD_INFO = Gauge("mover_build_info", "1; the version that runs is a label.", ("version",), registry=REGISTRY)
NODE_INFO = Gauge(
    "mover_node_info",
    "1; the node's name, its installation's mark and its Proxy VM are labels. For joins.",
    ("node", "install", "proxy"),
    registry=REGISTRY,
)

BYTES = Counter(
    "mover_bytes",
    "Bytes of all disks of this node by stage: read, new, stored, fetched, written and so on. Never goes back.",
    ("stage",),
    registry=REGISTRY,
)
DISK_BYTES = Counter(
    "mover_disk_bytes", "Bytes of a disk in flight by stage: read, new, stored, written.", _STAGE, registry=REGISTRY
)
DISK_RATE = Gauge(
    "mover_disk_bytes_per_second",
    "Rate over the last second, by stage; 0 once the disk is done.",
    _STAGE,
    registry=REGISTRY,
)
DISK_PROGRESS = Gauge("mover_disk_progress_ratio", "Share of the planned bytes that is done.", _DISK, registry=REGISTRY)
DISK_BUSY = Counter(
    "mover_disk_stage_busy_seconds",
    "Threads' seconds in a stage of a disk: read and compute, or fetched, opened and written.",
    _STAGE,
    registry=REGISTRY,
)
SERIES_DROPPED = Counter(
    "mover_series_dropped",
    "Disks that have no series of their own, or lost them early, because of serve.disk_series.",
    registry=REGISTRY,
)
STAGE_SECONDS = Counter(
    "mover_stage_seconds",
    "Threads' seconds in the node's stages by state: busy in one, idle for want of work, waiting for room.",
    ("stage", "state"),
    registry=REGISTRY,
)
# From the start, at 0: Prometheus sees no rise in a series that begins with it.
for _stage in ("read", "compute", "fetched", "opened", "written"):
    STAGE_SECONDS.labels(_stage, "busy")
for _stage in ("read", "zero", "known", "new", "stored", "fetched", "opened", "written"):
    BYTES.labels(_stage)
QUEUE_FILL = Gauge("mover_queue_items", "Items waiting in a queue of the pipeline.", ("queue",), registry=REGISTRY)

VM_LAST_SUCCESS = Gauge(
    "mover_vm_last_success_timestamp_seconds",
    "Freeze time of the newest committed point that can be read; 0 where backups failed and there is none.",
    ("vm",),
    registry=REGISTRY,
)
VM_LAST_FAILURE = Gauge(
    "mover_vm_last_failure_timestamp_seconds",
    "When the newest backup failed; absent where the newest one that ended was a success.",
    ("vm",),
    registry=REGISTRY,
)
VM_PRESENT = Gauge(
    "mover_vm_present",
    "1 if the cluster of the newest point has the VM, 0 if it has it no more; absent where it could not be asked.",
    ("vm",),
    registry=REGISTRY,
)
VM_BASE = Gauge(
    "mover_vm_base_snapshot_timestamp_seconds",
    "When the snapshot was made that stays on the cluster as the base of the next incremental; absent without one.",
    ("vm",),
    registry=REGISTRY,
)
VM_LAST_VERIFIED = Gauge(
    "mover_vm_last_verified_timestamp_seconds",
    "When a point of the VM last verified whole; absent where none ever did.",
    ("vm",),
    registry=REGISTRY,
)
VM_DAMAGED = Gauge(
    "mover_vm_damaged_points",
    "Points of the VM whose manifest cannot be read, or whose last verification found damage.",
    ("vm",),
    registry=REGISTRY,
)
VM_CONSISTENCY = Gauge(
    "mover_vm_application_consistent", "1 if the newest point is application-consistent.", ("vm",), registry=REGISTRY
)
VM_DOWNGRADED = Gauge(
    "mover_vm_consistency_downgraded",
    "1 if the newest point was to be application-consistent and is only crash-consistent.",
    ("vm",),
    registry=REGISTRY,
)
VM_UNPROTECTED_VGS = Gauge(
    "mover_vm_unprotected_volume_groups", "Attached volume groups that no point holds.", ("vm",), registry=REGISTRY
)
VM_FULL_REASON = Gauge(
    "mover_vm_full_reason",
    "1 for the reason why the newest backup read a disk in full.",
    ("vm", "reason"),
    registry=REGISTRY,
)

JOBS = Counter(
    "mover_jobs",
    "Jobs ended, by operation and outcome: done, failed, cancelled, interrupted (to be continued).",
    ("operation", "outcome"),
    registry=REGISTRY,
)
JOBS_RUNNING = Gauge("mover_jobs_running", "Jobs now running, by operation.", ("operation",), registry=REGISTRY)
JOB_LAST_PROGRESS = Gauge(
    "mover_job_last_progress_timestamp_seconds",
    "When a job that runs last got on: a byte or a phase further. A wait for another job's disks counts as getting on.",
    ("vm", "operation"),
    registry=REGISTRY,
)
LEDGER_ENTRIES = Gauge("mover_ledger_entries", "Open entries of the ledger, by kind.", ("kind",), registry=REGISTRY)
ORPHANS = Gauge(
    "mover_orphans",
    "Objects of ours on the cluster that nothing needs, as the last reconcile left them, by kind.",
    ("kind",),
    registry=REGISTRY,
)
ORPHANS_OLDEST = Gauge(
    "mover_orphans_oldest_timestamp_seconds",
    "When the oldest of them was ordered; absent without any.",
    ("kind",),
    registry=REGISTRY,
)
RECONCILE_LAST_SUCCESS = Gauge(
    "mover_reconcile_last_success_timestamp_seconds",
    "When a reconcile last ended without a problem; 0: not since this process began.",
    registry=REGISTRY,
)

BUDGET_BYTES = Gauge(
    "mover_budget_bytes", "The budget of bytes in flight, by state: total, used.", ("state",), registry=REGISTRY
)
BUDGET_WAITING = Gauge(
    "mover_budget_waiting",
    "Who waits for bytes of the budget now: buffers of readers, packs. For how long: mover_stage_seconds_total.",
    ("side",),
    registry=REGISTRY,
)
LOOP_LAG = Histogram(
    "mover_loop_lag_seconds",
    "How late the event loop wakes up.",
    registry=REGISTRY,
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0),
)
AUDIT_MISMATCHES = Counter(
    "mover_audit_mismatches", "Blocks that contradicted the changed regions.", ("vm",), registry=REGISTRY
)
AUDIT_BLOCKS = Counter(
    "mover_audit_blocks",
    "Blocks compared with what the changed regions say: how much an audit without mismatches is worth.",
    ("class",),
    registry=REGISTRY,
)

PRISM_CALLS = Counter(
    "mover_prism_calls", "Calls to Prism by interface and status class.", ("api", "status"), registry=REGISTRY
)
PRISM_RETRIES = Counter("mover_prism_retries", "Calls repeated, by reason.", ("reason",), registry=REGISTRY)
PRISM_SECONDS = Histogram(
    "mover_prism_call_seconds",
    "Duration of calls to Prism.",
    ("api",),
    registry=REGISTRY,
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30),
)
PRISM_REACHABLE = Gauge(
    "mover_prism_reachable",
    "1 if the last call was answered by a Prism that lets us in; 0: no answer, distrusted, log-in refused.",
    ("prism",),
    registry=REGISTRY,
)
PRISM_CERTIFICATE_EXPIRY = Gauge(
    "mover_prism_certificate_expiry_timestamp_seconds",
    "When the certificate ends that Prism showed last.",
    ("prism",),
    registry=REGISTRY,
)
DEVICE_REFUSED = Counter(
    "mover_device_refused", "Devices that were not proven and not touched, by reason.", ("reason",), registry=REGISTRY
)

STORE_REQUESTS = Counter(
    "mover_store_requests", "Requests to the store by verb and outcome.", ("verb", "outcome"), registry=REGISTRY
)
STORE_BYTES = Counter("mover_store_bytes", "Bytes to and from the store.", ("direction",), registry=REGISTRY)
STORE_SECONDS = Histogram(
    "mover_store_request_seconds",
    "Duration of store requests.",
    ("verb",),
    registry=REGISTRY,
    buckets=(0.005, 0.02, 0.1, 0.5, 2, 10, 60),
)
STORE_REACHABLE = Gauge(
    "mover_store_reachable",
    "1 if the last request was answered by a store that lets us in; NaN before the first one.",
    registry=REGISTRY,
)
STORE_REACHABLE.set(UNKNOWN)
STORE_LAST_ERROR = Gauge(
    "mover_store_last_error_timestamp_seconds",
    "When a request last failed, also one that was repeated with success; 0: not since this process began.",
    registry=REGISTRY,
)
