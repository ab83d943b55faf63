"""``points``, ``job``, ``bench`` (commands that have commands), ``repair``. Bodies import their work when called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mover.cli.main import app, run
from mover.cli.options import Assign, Config, JobId, Json, Point, Repository

points_app = typer.Typer(invoke_without_command=True)
bench_app = typer.Typer(invoke_without_command=True)
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

    Its space is not freed: this version collects nothing yet. The base of the next incremental stays, unless forced.

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
    """List the jobs of this node, newest first.

    \b
    Examples:
      mover job list
      mover job list --json
    """
    from mover.cli import jobs as work

    run(work.jobs, config, assign, as_json)


@job_app.command("show")
def job_show(job: JobId, config: Config = None, assign: Assign = None, as_json: Json = False) -> None:
    """Show a job with its result or error.

    \b
    Example:
      mover job show 4f70
    """
    from mover.cli import jobs as work

    run(lambda session: work.show_job(session, job), config, assign, as_json)


@job_app.command("cancel")
def job_cancel(job: JobId, config: Config = None, assign: Assign = None, as_json: Json = False) -> None:
    """Ask a job to end in order: it cleans up after itself.

    \b
    Example:
      mover job cancel 4f70
    """
    from mover.cli import jobs as work

    run(lambda session: work.cancel_job(session, job), config, assign, as_json)


@job_app.command("retry")
def job_retry(job: JobId, config: Config = None, assign: Assign = None, as_json: Json = False) -> None:
    """Order a job that failed again.

    The daemon does it, or the next command that runs jobs.

    \b
    Example:
      mover job retry 4f70
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
    or damaged are written anew. Deletes nothing; needs repository and key only. Exit code 6: points
    cannot be read, or need what is damaged still.

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


Folder = Annotated[Path | None, typer.Option(help="Where sample and repository go. Default: a temporary one.")]
Size = Annotated[str, typer.Option(help="Size of the sample disk.")]


@bench_app.callback()
def bench(
    context: typer.Context,
    folder: Folder = None,
    size: Size = "1GiB",
    config: Config = None,
    assign: Assign = None,
    as_json: Json = False,
) -> None:
    """Measure this machine with the settings as they are.

    A sample disk is backed up in full, again, with 2 % changed, and restored: through the pipeline
    into an encrypted, durable repository. Everything made is removed at the end.

    \b
    Examples:
      mover bench --folder /backup/trial
      mover bench --size 4GiB -s data.level=3
      mover bench tune --folder /backup/trial
      mover bench plan --vms 200 --tb 80 --change 3% --window 8h
    """
    if context.invoked_subcommand is not None:
        return
    from mover.cli import bench as work

    run(lambda session: work.bench(session, folder, size), config, assign, as_json)


@bench_app.command("tune")
def bench_tune(
    folder: Folder = None,
    size: Size = "512MiB",
    device: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Read this disk or image instead of a sample; never written.")
    ] = None,
    time: Annotated[str, typer.Option(help="End after this; a quarter of an hour finds smaller gains.")] = "10m",
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this setting, e.g. data.readers. Repeatable.")
    ] = None,
    write: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Put what was found into this settings file.")
    ] = None,
    config: Config = None,
    assign: Assign = None,
    as_json: Json = False,
) -> None:
    """Search the settings for this node, measuring each against the present ones.

    Proposed is only what is faster beyond the noise of the measurement and stores no more. Needs a
    quiet machine; on a busy one it proposes nothing. Ctrl-C ends it with what was found so far.

    \b
    Examples:
      mover bench tune --folder /backup/trial
      mover bench tune --device /dev/sdx --time 30m
      mover bench tune --only data.readers --write /etc/mover/mover.yaml
    """
    from mover.cli import tune as work

    wish = work.Wish(folder, size, device, time, tuple(only or ()), write)
    run(lambda session: work.tune(session, wish), config, assign, as_json)


@bench_app.command("plan")
def bench_plan(
    vms: Annotated[int, typer.Option(metavar="N", help="VMs to protect.")],
    tb: Annotated[float, typer.Option(metavar="TB", help="Their used data, in TB of 10^12 bytes.")],
    change: Annotated[str, typer.Option(metavar="SHARE", help="Share of it that changes in a day: 3% or 0.03.")] = "3%",
    window: Annotated[str, typer.Option(metavar="HOURS", help="Time for the daily run.")] = "8h",
    retention: Annotated[str, typer.Option(metavar="DAYS", help="How long a point is kept.")] = "30d",
    figures: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What mover bench --json printed. Default: measured now.")
    ] = None,
    cores: Annotated[int | None, typer.Option(metavar="N", help="Cores of a node. Default: as measured.")] = None,
    per_vm: Annotated[str, typer.Option(metavar="TIME", help="What a VM costs beside its bytes.")] = "60s",
    folder: Folder = None,
    size: Size = "1GiB",
    config: Config = None,
    assign: Assign = None,
    as_json: Json = False,
) -> None:
    """Say how many nodes a daily backup needs, and what it stores.

    From figures measured on this node: in the file, or now. Each assumption is printed.

    \b
    Examples:
      mover bench plan --vms 200 --tb 80 --change 3% --window 8h
      mover bench --json > node.json
      mover bench plan --vms 200 --tb 80 --figures node.json --json
    """
    from mover.cli import plan as work

    def planned(session: Any) -> Any:
        wish = work.read_wish(
            session,
            vms=vms,
            tb=tb,
            change=change,
            window=window,
            retention=retention,
            per_vm=per_vm,
            cores=cores,
        )
        return work.show_plan(session, wish, figures=figures, folder=folder, size=size)

    run(planned, config, assign, as_json)
