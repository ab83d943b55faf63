"""Every command with its options and help. Bodies import their work only when called."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mover import __version__
from mover.cli.options import Assign, Config, Json, Point, Repository

ORDER = (
    *("demo", "lab", "init", "check", "inventory", "backup", "points"),
    *("restore", "verify", "repair", "orphans", "job", "serve", "health", "bench"),
)
"""As one needs them; not as they are declared."""


_Unparsed: Any = typer.BadParameter.__mro__[1]
"""The library's UsageError: whatever of a command line cannot be parsed; it has no public name of its own."""


class Commands(TyperGroup):
    """The commands in their order; with --json, what cannot be parsed is JSON too."""

    def main(self, args: Sequence[str] | None = None, **more: Any) -> Any:  # type: ignore[override]  # as the library calls it
        words = sys.argv[1:] if args is None else list(args)
        if "--json" not in words:
            return super().main(args, **more)
        try:
            sys.exit(super().main(args, **{**more, "standalone_mode": False}) or 0)
        except _Unparsed as error:
            sys.exit(_told_as_json(error))

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # typer's own context
        known = super().list_commands(ctx)
        return sorted(known, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


def _told_as_json(error: Any) -> int:
    from mover.cli.console import Console
    from mover.errors import UsageError

    command = error.ctx.command_path if error.ctx else "mover"
    refused = UsageError(error.format_message(), remedy=f"See: {command} --help")
    Console(as_json=True).fail(refused)
    return refused.exit_code


app = typer.Typer(
    name="mover",
    cls=Commands,
    help="""Back up VMs of a Nutanix AHV cluster to a repository, and bring them back.

    \b
    A first look, without a cluster:   mover demo
    The way of a real one:             mover check, init, backup, points, restore
    Completion for your shell:         mover --install-completion
    """,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def run(
    work: Any,
    config: Path | None,
    assign: list[str] | None,
    as_json: bool,
    *,
    is_daemon: bool = False,
    prepare: Any = None,
    **flags: Any,
) -> None:
    """Hand a command's work over. flags: settings with ``__`` for the dot → values, None where not given."""
    from mover.cli.run import command

    named = {name.replace("__", "."): value for name, value in flags.items()}
    command(work, config=config, assignments=assign, as_json=as_json, flags=named, is_daemon=is_daemon, prepare=prepare)


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
    """Make a repository, encrypted by a passphrase.

    The store is probed first: what a repository needs of it must hold. The passphrase comes
    from the settings, or is asked for, twice.

    \b
    Examples:
      mover init -r /backup/ahv
      mover init -r s3://bucket/ahv -s repository.store.endpoint=https://HOST
    """
    from mover.cli import setup as work

    run(
        work.init,
        config,
        assign,
        as_json,
        prepare=lambda session: work.ask_passphrase(session, no_encryption=no_encryption),
        repository__url=repository,
    )


@app.command()
def check(
    config: Config = None,
    assign: Assign = None,
    as_json: Json = False,
    repository: Repository = None,
    settings: Annotated[
        bool, typer.Option("--settings", help="Read settings and secrets only, look at nothing else.")
    ] = False,
) -> None:
    """See what would keep a backup from working, and the remedy.

    Looks at: what container, unit and kernel let this process do, reach, TLS, rights of the user,
    clocks, the Proxy VM, free SCSI slots, storage containers, LVM and multipath and automount of
    this node, the store, the repository. Changes nothing. Exit code 3 when a line is a problem.

    \b
    Examples:
      mover check
      mover check -c /etc/mover/mover.yaml --json
      mover check --settings    (before a restart of the daemon)
    """
    from mover.cli import setup as work

    chosen = work.check_settings if settings else work.check
    run(chosen, config, assign, as_json, repository__url=repository)


@app.command()
def health(config: Config = None, assign: Assign = None, as_json: Json = False) -> None:
    """Ask the daemon of these settings whether it is well.

    Exit code 0 when it runs and reconciles, 7 when it says no or nothing: for health checks of
    containers and units.

    \b
    Examples:
      mover health
      mover health --json
    """
    from mover.cli import health as work

    run(work.health, config, assign, as_json)


@app.command()
def inventory(
    config: Config = None,
    assign: Assign = None,
    as_json: Json = False,
    full: Annotated[bool, typer.Option("--full", help="Also clusters, hosts, containers, networks.")] = False,
) -> None:
    """List the VMs of the cluster, and what to know of each.

    \b
    Examples:
      mover inventory
      mover inventory --full
    """
    from mover.cli import cluster as work

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
        list[str] | None,
        typer.Option(metavar="WHAT", help="Disks to leave out: a slot (scsi.2), a bus (sata), a size (>2TiB)."),
    ] = None,
    consistency: Annotated[str | None, typer.Option(metavar="KIND", help="crash or application.")] = None,
    on_downgrade: Annotated[
        str | None, typer.Option(metavar="DO", help="fail or warn: what not reaching it does.")
    ] = None,
    keep_base: Annotated[
        bool | None, typer.Option("--keep-base/--no-keep-base", help="Keep the snapshot for the next incremental.")
    ] = None,
) -> None:
    """Back up VMs, incrementally where possible.

    Several VMs go side by side. Ctrl-C cancels and cleans up; a kill is made good by the next
    run. Where mover serve runs, the jobs are handed to it.

    \b
    Examples:
      mover backup web01
      mover backup 'db*' --consistency application
      mover backup files01 --exclude scsi.3 --exclude '>2TiB'
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


@app.command()
def restore(
    point: Point,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Restore the whole VM under this name.")] = None,
    disk: Annotated[
        str | None, typer.Option(metavar="SLOT", help="Restore only this disk of the point, e.g. scsi.1.")
    ] = None,
    to_vm: Annotated[str | None, typer.Option(metavar="VM", help="With --disk: add it to this existing VM.")] = None,
    slot: Annotated[
        str | None, typer.Option(metavar="SLOT", help="With --to-vm: at this free slot. Default: the lowest.")
    ] = None,
    to_file: Annotated[
        Path | None, typer.Option(metavar="PATH", help="With --disk: into a raw file. Needs no cluster.")
    ] = None,
    nics: Annotated[
        str | None,
        typer.Option(
            metavar="HOW", help="auto, keep, new-mac or disconnected. auto: disconnected while the original lives."
        ),
    ] = None,
    network: Annotated[
        list[str] | None, typer.Option(metavar="OLD=NEW", help="Networks (name or UUID) that changed.")
    ] = None,
    container: Annotated[
        list[str] | None, typer.Option(metavar="[OLD=]NEW", help="Storage containers that changed; NEW alone: for all.")
    ] = None,
    power_on: Annotated[bool, typer.Option("--power-on", help="Start the restored VM.")] = False,
    config: Config = None,
    assign: Assign = None,
    as_json: Json = False,
    repository: Repository = None,
) -> None:
    """Restore a VM, one disk into a VM, or one disk to a file.

    \b
    Examples:
      mover restore web01 --name web01-restored --power-on
      mover restore 3f2a --name web02 --network OLD=NEW --container fast
      mover restore 3f2a --disk scsi.0 --to-vm db01
      mover restore 3f2a --disk scsi.0 --to-file disk.raw
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
    """Read a restore point whole; name what is damaged.

    The way of a restore, into nothing: every block is fetched, decrypted and compared with its id.

    \b
    Examples:
      mover verify web01
      mover verify 3f2a --json
    """
    from mover.cli import verify as work

    run(lambda session: work.verify(session, point), config, assign, as_json, repository__url=repository)


@app.command()
def orphans(
    apply: Annotated[bool, typer.Option("--apply", help="Do it. Without: only show.")] = False,
    forget: Annotated[
        str | None,
        typer.Option("--forget", metavar="UUID", help="A thing shown to look at is not ours: show it no more."),
    ] = None,
    config: Config = None,
    assign: Assign = None,
    as_json: Json = False,
) -> None:
    """Show (or clean up) what of ours nothing needs any more.

    Compares what mover noted down, its jobs and restore points with what the cluster has. Only
    what is proven ours is removed; the rest is shown to look at, with what to do about it.

    \b
    Examples:
      mover orphans
      mover orphans --apply
      mover orphans --forget 5a1e7c90-3c41-4d8e-9b60-2f7d81c4ae13
    """
    from mover.cli import cluster as work

    if forget is not None:
        run(lambda session: work.forget(session, forget), config, assign, as_json)
    else:
        run(lambda session: work.orphans(session, apply=apply), config, assign, as_json)
