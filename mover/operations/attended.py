"""An operation as the executor runs it: in the repository it was ordered for, watched for standing still."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mover.errors import UsageError
from mover.jobs.steps import Steps, Values
from mover.operations.clean import settle
from mover.operations.node import Node
from mover.operations.request import REPOSITORY, place_of

Operation = Callable[[Node, Mapping[str, Any], Steps], Awaitable[Values]]


async def attended(node: Node, name: str, operation: Operation, values: Mapping[str, Any], steps: Steps) -> Values:
    """The operation's result; while it runs, the metrics say when it last got on. Raises UsageError."""
    request = dict(values)
    await _check_repository(node, request.pop(REPOSITORY, None), steps.job_id)
    with node.board.pulse.running(steps.job_id, name, _vm_of(request)):
        return await operation(node, request, steps)


async def _check_repository(node: Node, wanted: str | None, job: str) -> None:
    """A job that was handed over, or is continued, may be met by a mover with another repository."""
    if wanted is not None and wanted != (ours := place_of(node.settings.repository)):
        raise UsageError(
            f"The job was ordered for the repository {wanted}, but the mover that met it works with {ours}",
            remedy="Order it again for that repository (--repository) when no other mover runs jobs here.",
            owed=[action.reason for action in await settle(node, job)],
        )


def _vm_of(values: Mapping[str, Any]) -> str:
    """The VM that a job is about, in the words of its order: its name where that is known by then."""
    return str(values.get("vm_name") or values.get("name") or values.get("vm_uuid") or "")
