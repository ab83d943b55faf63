"""The entry point: ``mover`` and ``python -m mover``."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # While libraries load, nothing is begun: Ctrl-C ends the process without a word, until a command listens.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from mover.program import app

    app()


if __name__ == "__main__":
    main()
