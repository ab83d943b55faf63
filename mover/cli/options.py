"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", envvar="MOVER_CONFIG", help="Settings file. Default: ./mover.yaml, /etc/mover/mover.yaml."
    ),
]
Assign = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="NAME=VALUE", help="Any setting, e.g. -s data.level=3. Repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="Answer as JSON on standard output.")]
Repository = Annotated[
    str | None, typer.Option("--repository", "-r", metavar="URL", help="Folder or s3://bucket/prefix.")
]
Point = Annotated[str, typer.Argument(help="Id, unique beginning of one, or a VM's name for its newest.")]
JobId = Annotated[str, typer.Argument(help="Id of a job or its beginning, as mover job list shows it.")]
