"""The entry point: ``mover`` and ``python -m mover``."""

from __future__ import annotations

from mover.cli.main import app


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
