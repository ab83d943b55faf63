"""A mover in a process of its own, and what it says."""

from __future__ import annotations

import queue
import signal
import subprocess
import threading
from functools import partial


class Process:
    """A mover whose standard error is read as it comes."""

    def __init__(self, desk, *args: str) -> None:
        self._process = subprocess.Popen(
            desk.command_line(*args),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=desk.environment,
            # Started in the background, the test run ignores SIGINT, and so would its children.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.said = ""

    def _read(self) -> None:
        for line in self._process.stderr:
            self._lines.put(line)
        self._lines.put(None)

    def until(self, words: str) -> str:
        """Wait for a line with these words."""
        while (line := self._lines.get(timeout=40)) is not None:
            self.said += line
            if words in line:
                return line
        raise AssertionError(f"it ended without {words!r}:\n{self.said}")

    def tell(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self) -> int:
        """Its exit code; all that it said is in ``said``."""
        code = self._process.wait(timeout=40)
        self._reader.join(timeout=10)
        while not self._lines.empty():
            self.said += self._lines.get() or ""
        self.out = self._process.stdout.read()
        self._process.stdout.close()
        self._process.stderr.close()
        return code
