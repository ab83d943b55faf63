"""Fixtures that every test may ask for; each room's own stand in tests/support."""

import os
import signal

pytest_plugins = ("tests.support.servers",)

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would what they start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Settings of whoever runs the tests are not the tests' own.
for name in [name for name in os.environ if name.startswith("MOVER_")]:
    del os.environ[name]
