"""An operation as the executor runs it: watched for standing still."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mover.jobs.steps import Steps, Values
from mover.operations.node import Node

Operation = Callable[[Node, Mapping[str, Any], Steps], Awaitable[Values]]


async def attended(node: Node, name: str, operation: Operation, values: Mapping[str, Any], steps: Steps) -> Values:
    """The operation's result; while it runs, the metrics say when it last got on."""
    with node.board.pulse.running(steps.job_id, name, _vm_of(values)):
        return await operation(node, values, steps)


def _vm_of(values: Mapping[str, Any]) -> str:
    """The VM that a job is about, in the words of its order: its name where that is known by then."""
    return str(values.get("vm_name") or values.get("name") or values.get("vm_uuid") or "")
