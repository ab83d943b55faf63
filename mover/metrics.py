"""Every instrument, declared once. Names are stable; base units; bounded labels.

The table of all of them, with the alert that uses each, stands in the README; a test
holds the two together. Nothing says success that is not a committed manifest.
"""

from __future__ import annotations

import os

os.environ.setdefault("PROMETHEUS_DISABLE_CREATED_SERIES", "true")

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()

_DISK = ("vm", "disk")
_STAGE = ("vm", "disk", "stage")

DISK_BYTES = Counter(
    "mover_disk_bytes", "Bytes of a disk in flight by stage: read, new, stored, written.", _STAGE, registry=REGISTRY
)
DISK_RATE = Gauge("mover_disk_bytes_per_second", "Rate over the last second, by stage.", _STAGE, registry=REGISTRY)
DISK_PROGRESS = Gauge("mover_disk_progress_ratio", "Share of the planned bytes that is done.", _DISK, registry=REGISTRY)
STAGE_SECONDS = Counter(
    "mover_stage_seconds", "Busy and waiting seconds of the pipeline's stages.", ("stage", "state"), registry=REGISTRY
)
QUEUE_FILL = Gauge("mover_queue_items", "Items waiting in a queue of the pipeline.", ("queue",), registry=REGISTRY)

VM_LAST_SUCCESS = Gauge(
    "mover_vm_last_success_timestamp_seconds", "Freeze time of the newest committed point.", ("vm",), registry=REGISTRY
)
VM_LAST_VERIFIED = Gauge(
    "mover_vm_last_verified_timestamp_seconds",
    "When a point of the VM last verified whole.",
    ("vm",),
    registry=REGISTRY,
)
VM_CONSISTENCY = Gauge(
    "mover_vm_application_consistent", "1 if the newest point is application-consistent.", ("vm",), registry=REGISTRY
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

JOBS = Counter("mover_jobs", "Jobs ended, by operation and outcome.", ("operation", "outcome"), registry=REGISTRY)
JOBS_RUNNING = Gauge("mover_jobs_running", "Jobs now running, by operation.", ("operation",), registry=REGISTRY)
LEDGER_ENTRIES = Gauge("mover_ledger_entries", "Open entries of the ledger, by kind.", ("kind",), registry=REGISTRY)
ORPHANS = Gauge(
    "mover_orphans", "Objects of ours on the cluster that nothing needs, by kind.", ("kind",), registry=REGISTRY
)

BUDGET_BYTES = Gauge(
    "mover_budget_bytes", "The budget of bytes in flight, by state: total, used.", ("state",), registry=REGISTRY
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
    "mover_audit_blocks", "Blocks compared with what the changed regions say.", ("class",), registry=REGISTRY
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
