"""``points``, ``job`` (commands that have commands) and ``repair``. Bodies import their work only when called."""

from __future__ import annotations

from typing import Annotated

import typer

from mover.cli.main import app, run
from mover.cli.options import Assign, Config, JobId, Json, Point, Repository

points_app = typer.Typer(invoke_without_command=True)
job_app = typer.Typer(
    help="""List, show, cancel or repeat jobs.

    \b
    Examples:
      mover job list
      mover job cancel 4f703166731e4c01
    """,
    no_args_is_help=True,
)


@points_app.callback()
def points(
    context: typer.Context,
    vm: Annotated[str | None, typer.Option(metavar="VM", help="Only of this VM (name or UUID).")] = None,
    config: Config = None,
    assign: Assign = None,
    as_json: Json = False,
    repository: Repository = None,
) -> None:
    """List, show or forget restore points.

    Newest last; needs repository and key only.

    \b
    Examples:
      mover points --vm web01
      mover points show web01
      mover points delete 3f2a
    """
    if context.invoked_subcommand is not None:
        return
    from mover.cli import points as work

    run(lambda session: work.points(session, vm), config, assign, as_json, repository__url=repository)


@points_app.command("show")
def points_show(
    point: Point, config: Config = None, assign: Assign = None, as_json: Json = False, repository: Repository = None
) -> None:
    """Show a point: disks, how each was read and why, warnings.

    \b
    Examples:
      mover points show 3f2a
      mover points show web01
    """
    from mover.cli import points as work

    run(lambda session: work.show_point(session, point), config, assign, as_json, repository__url=repository)


@points_app.command("delete")
def points_delete(
    point: Point,
    force: Annotated[bool, typer.Option(help="Even if the next incremental stands on it.")] = False,
    config: Config = None,
    assign: Assign = None,
    as_json: Json = False,
    repository: Repository = None,
) -> None:
    """Forget a restore point.

    Its space is freed by a later collection. The base of the next incremental stays, unless forced.

    \b
    Example:
      mover points delete 3f2a
    """
    from mover.cli import points as work

    run(
        lambda session: work.delete_point(session, point, force=force),
        config,
        assign,
        as_json,
        repository__url=repository,
    )


@job_app.command("list")
def job_list(config: Config = None, assign: Assign = None, as_json: Json = False) -> None:
    """List the jobs of this node, newest first."""
    from mover.cli import jobs as work

    run(work.jobs, config, assign, as_json)


@job_app.command("show")
def job_show(job: JobId, config: Config = None, assign: Assign = None, as_json: Json = False) -> None:
    """Show a job with its result or error."""
    from mover.cli import jobs as work

    run(lambda session: work.show_job(session, job), config, assign, as_json)


@job_app.command("cancel")
def job_cancel(job: JobId, config: Config = None, assign: Assign = None, as_json: Json = False) -> None:
    """Ask a job to end in order: it cleans up after itself."""
    from mover.cli import jobs as work

    run(lambda session: work.cancel_job(session, job), config, assign, as_json)


@job_app.command("retry")
def job_retry(job: JobId, config: Config = None, assign: Assign = None, as_json: Json = False) -> None:
    """Order a job that failed again.

    The daemon does it, or the next command that runs jobs.
    """
    from mover.cli import jobs as work

    run(lambda session: work.retry_job(session, job), config, assign, as_json)


@app.command()
def repair(
    point: Annotated[
        str | None, typer.Argument(help="Only the packs of this point: its id or a VM's name. Default: all.")
    ] = None,
    read_data: Annotated[
        bool, typer.Option("--read-data", help="Read and decrypt every block too, not only headers and tables.")
    ] = False,
    config: Config = None,
    assign: Assign = None,
    as_json: Json = False,
    repository: Repository = None,
) -> None:
    """Mark damaged packs, so that backups store their blocks again.

    A backup takes no block of a marked pack for known, and a disk whose former point needs one is
    read in full. Points that share those blocks are then whole again. Index objects that are lost
    or damaged are written anew. Deletes nothing; needs repository and key only.

    \b
    Examples:
      mover repair --read-data
      mover repair web01
    """
    from mover.cli import repair as work

    run(
        lambda session: work.repair(session, point, read_data=read_data),
        config,
        assign,
        as_json,
        repository__url=repository,
    )
