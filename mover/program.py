"""The whole command line: joins the faces and the lab."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mover.cli.groups import bench_app, job_app, points_app
from mover.cli.main import app, run
from mover.cli.options import Assign, Config, Json

__all__ = ["app"]

app.add_typer(points_app, name="points")
app.add_typer(job_app, name="job")
app.add_typer(bench_app, name="bench")


@app.command()
def demo(
    folder: Annotated[
        Path | None, typer.Option(help="Where the lab and the repository go. Default: a new one.")
    ] = None,
    keep: Annotated[bool, typer.Option(help="Keep lab and repository, to look further.")] = True,
    as_json: Json = False,
) -> None:
    """Show everything once, against a lab; needs no cluster.

    Full backup of three VMs, files change, incremental, three kinds of restore, comparison byte
    by byte with what the snapshots held.

    \b
    Examples:
      mover demo
      mover demo --folder /var/tmp/demo
    """
    from mover.tour import demo as work

    run(lambda session: work.demo(session, folder, keep=keep), None, None, as_json)


@app.command()
def lab(
    folder: Annotated[Path, typer.Argument(help="State, disks and certificates; made if absent.")] = Path("mover-lab"),
    guests: Annotated[str, typer.Option(help="demo: three guests with file systems; small: two tiny VMs.")] = "demo",
    clean: Annotated[bool, typer.Option("--clean", help="Remove what a killed lab left behind, then end.")] = False,
) -> None:
    """Serve a simulated Prism with block devices, to try things.

    Until Ctrl-C; its state stays in the folder, with a settings file for the other commands.

    \b
    Example:
      mover lab /var/tmp/lab
      MOVER_CONFIG=/var/tmp/lab/mover.yaml mover inventory     (elsewhere)
    """
    from mover.tour import labs as work

    run(lambda session: work.lab(session, folder, guests=guests, clean=clean), None, None, False, is_daemon=not clean)


@app.command()
def serve(
    config: Config = None,
    assign: Assign = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
) -> None:
    """Run jobs, clean up, serve /metrics and /healthz.

    Until SIGTERM or Ctrl-C; jobs that run then go on at the next start.

    \b
    Examples:
      mover serve
      mover serve --host 0.0.0.0 --port 9464
    """
    from mover import daemon as work

    run(work.serve, config, assign, False, is_daemon=True, serve__host=host, serve__port=port)
