"""Every command with its options and help. Bodies import their work only when called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mover import __version__
from mover.cli.options import Assign, Config, Json, Point, Repository

app = typer.Typer(
    name="mover",
    help="Back up and restore VMs of a Nutanix AHV cluster.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
points_app = typer.Typer(help="List, show or delete restore points.", invoke_without_command=True)
job_app = typer.Typer(help="List, show, cancel or repeat jobs.", no_args_is_help=True)
app.add_typer(points_app, name="points", rich_help_panel=None)
app.add_typer(job_app, name="job")


def run(
    work: Any, config: Path | None, assign: list[str] | None, as_json: bool, *, is_daemon: bool = False, **flags: Any
) -> None:
    """Hand a command's work over. flags: settings with ``__`` for the dot → values, None where not given."""
    from mover.cli.run import command

    named = {name.replace("__", "."): value for name, value in flags.items()}
    command(work, config=config, assignments=assign, as_json=as_json, flags=named, is_daemon=is_daemon)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mover {__version__}")
        raise typer.Exit


@app.callback()
def root(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


@app.command()
def init(
    config: Config = None,
    assign: Assign = None,
    as_json: Json = False,
    repository: Repository = None,
    no_encryption: Annotated[
        bool, typer.Option("--no-encryption", help="Whoever reads the store reads every disk.")
    ] = False,
) -> None:
    """Make a repository: probe the store, then write its descriptor and key.

    Example: mover init -r /backup/ahv    (asks for a passphrase)
    """
    from mover.cli import setup as work

    run(
        lambda session: work.init(session, no_encryption=no_encryption),
        config,
        assign,
        as_json,
        repository__url=repository,
    )


@app.command()
def check(config: Config = None, assign: Assign = None, as_json: Json = False) -> None:
    """Preflight: reach, TLS, rights, Proxy VM, SCSI slots, LVM guard, store, clocks."""
    from mover.cli import setup as work

    run(work.check, config, assign, as_json)


@app.command()
def inventory(
    config: Config = None,
    assign: Assign = None,
    as_json: Json = False,
    full: Annotated[bool, typer.Option("--full", help="Also clusters, hosts, containers, networks.")] = False,
) -> None:
    """List the VMs of the cluster and what to know of each before a backup."""
    from mover.cli import look as work

    run(lambda session: work.inventory(session, full=full), config, assign, as_json)


@app.command()
def backup(
    vms: Annotated[list[str], typer.Argument(help="Names, UUIDs, or patterns such as 'web*'.")],
    config: Config = None,
    assign: Assign = None,
    as_json: Json = False,
    repository: Repository = None,
    full: Annotated[bool, typer.Option("--full", help="Read all disks in full, whatever the base.")] = False,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Disks to leave out: a slot (scsi.2), a bus (sata), a size (>2TiB).")
    ] = None,
    consistency: Annotated[str | None, typer.Option(help="crash or application.")] = None,
    on_downgrade: Annotated[str | None, typer.Option(help="fail or warn.")] = None,
    keep_base: Annotated[
        bool | None, typer.Option("--keep-base/--no-keep-base", help="Keep the snapshot for the next incremental.")
    ] = None,
) -> None:
    """Back up VMs, incrementally where possible.

    Examples: mover backup web01    mover backup 'db*' --consistency application
    """
    from mover.cli import backup as work

    run(
        lambda session: work.backup(session, vms, full=full, exclude=tuple(exclude or ())),
        config,
        assign,
        as_json,
        repository__url=repository,
        backup__consistency=consistency,
        backup__on_downgrade=on_downgrade,
        backup__keep_base=keep_base,
    )


@points_app.callback()
def points(
    context: typer.Context,
    vm: Annotated[str | None, typer.Option(help="Only of this VM (name or UUID).")] = None,
    config: Config = None,
    assign: Assign = None,
    as_json: Json = False,
    repository: Repository = None,
) -> None:
    """List restore points, newest last. Needs repository and key only."""
    if context.invoked_subcommand is not None:
        return
    from mover.cli import look as work

    run(lambda session: work.points(session, vm), config, assign, as_json, repository__url=repository)


@points_app.command("show")
def points_show(
    point: Point, config: Config = None, assign: Assign = None, as_json: Json = False, repository: Repository = None
) -> None:
    """Show one restore point: its disks, how each was read and why, warnings."""
    from mover.cli import look as work

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
    """Forget a restore point. Its space is freed by a later collection."""
    from mover.cli import look as work

    run(
        lambda session: work.delete_point(session, point, force=force),
        config,
        assign,
        as_json,
        repository__url=repository,
    )


@app.command()
def restore(
    point: Point,
    name: Annotated[str | None, typer.Option(help="Restore the whole VM under this name.")] = None,
    disk: Annotated[str | None, typer.Option(help="Restore only this disk of the point, e.g. scsi.1.")] = None,
    to_vm: Annotated[str | None, typer.Option(help="With --disk: add it to this existing VM.")] = None,
    slot: Annotated[str | None, typer.Option(help="With --to-vm: at this free slot. Default: the lowest.")] = None,
    to_file: Annotated[Path | None, typer.Option(help="With --disk: into a raw file. Needs no cluster.")] = None,
    nics: Annotated[str, typer.Option(help="auto, keep, new-mac or disconnected.")] = "auto",
    network: Annotated[list[str] | None, typer.Option(metavar="OLD=NEW", help="Network UUIDs that changed.")] = None,
    container: Annotated[
        list[str] | None, typer.Option(metavar="[OLD=]NEW", help="Storage containers that changed; NEW alone: for all.")
    ] = None,
    power_on: Annotated[bool, typer.Option("--power-on", help="Start the restored VM.")] = False,
    config: Config = None,
    assign: Assign = None,
    as_json: Json = False,
    repository: Repository = None,
) -> None:
    """Restore a VM as a new one, one disk into an existing VM, or one disk to a raw file.

    Examples: mover restore web01 --name web01-restored --power-on
    mover restore 3f2a --disk scsi.0 --to-vm db01    mover restore 3f2a --disk scsi.0 --to-file d.raw
    """
    from mover.cli import restore as work

    wish = work.Wish(
        point, name, disk, to_vm, slot, to_file, nics, tuple(network or ()), tuple(container or ()), power_on
    )
    run(lambda session: work.restore(session, wish), config, assign, as_json, repository__url=repository)


@app.command()
def verify(
    point: Point, config: Config = None, assign: Assign = None, as_json: Json = False, repository: Repository = None
) -> None:
    """Read a restore point as a restore would, into nothing; name every damaged object."""
    from mover.cli import restore as work

    run(lambda session: work.verify(session, point), config, assign, as_json, repository__url=repository)


@app.command()
def orphans(
    apply: Annotated[bool, typer.Option("--apply", help="Do it. Without: only show.")] = False,
    config: Config = None,
    assign: Assign = None,
    as_json: Json = False,
) -> None:
    """What of ours is on the cluster that nothing needs, and what is to be done about it."""
    from mover.cli import look as work

    run(lambda session: work.orphans(session, apply=apply), config, assign, as_json)


@job_app.command("list")
def job_list(config: Config = None, assign: Assign = None, as_json: Json = False) -> None:
    """Jobs of this node, newest first."""
    from mover.cli import look as work

    run(work.jobs, config, assign, as_json)


@job_app.command("show")
def job_show(job: str, config: Config = None, assign: Assign = None, as_json: Json = False) -> None:
    """One job with its result or error."""
    from mover.cli import look as work

    run(lambda session: work.show_job(session, job), config, assign, as_json)


@job_app.command("cancel")
def job_cancel(job: str, config: Config = None, assign: Assign = None, as_json: Json = False) -> None:
    """Ask a job to end in order."""
    from mover.cli import look as work

    run(lambda session: work.cancel_job(session, job), config, assign, as_json)


@job_app.command("retry")
def job_retry(job: str, config: Config = None, assign: Assign = None, as_json: Json = False) -> None:
    """Order a failed job again; the daemon, or the next command that runs jobs, does it."""
    from mover.cli import look as work

    run(lambda session: work.retry_job(session, job), config, assign, as_json)


@app.command()
def bench(
    folder: Annotated[Path | None, typer.Option(help="Where sample and repository go. Default: a new one.")] = None,
    size: Annotated[str, typer.Option(help="Size of the sample disk.")] = "1GiB",
    config: Config = None,
    assign: Assign = None,
    as_json: Json = False,
) -> None:
    """Measure this machine: full, unchanged, incremental, restore of a sample disk, with these settings."""
    from mover.cli import bench as work

    run(lambda session: work.bench(session, folder, size), config, assign, as_json)
