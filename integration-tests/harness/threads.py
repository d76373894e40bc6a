"""Who uses the processors within a process."""

import contextlib
import os
import threading
import time
from pathlib import Path

TICK = 1 / os.sysconf("SC_CLK_TCK")
PERIOD = 0.02


class LowPriorityTime:
    """Seconds of processor time that the threads of a process below priority 0 took, sampled while this is entered: what a
    thread takes between its last sample and its end is missed."""

    def __init__(self, pid: int):
        self.tasks, self.seconds, self.wall = Path(f"/proc/{pid}/task"), 0.0, 0.0
        self.stopped = threading.Event()

    def __enter__(self) -> "LowPriorityTime":
        self.begun = time.monotonic()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.thread.join()
        self.wall = time.monotonic() - self.begun

    def _watch(self):
        before = self._samples()
        while not self.stopped.wait(PERIOD):
            now = self._samples()
            # A thread that was not there before has taken all it has since.
            self.seconds += sum(taken - before.get(name, 0.0) for name, taken in now.items())
            before = now

    def _samples(self) -> dict[tuple[str, str], float]:
        """Seconds so far, by number and start: numbers are used again."""
        found = {}
        for stat in self.tasks.glob("*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                user, system, nice, start = int(fields[11]), int(fields[12]), int(fields[16]), fields[19]
                if nice > 0:
                    found[stat.parent.name, start] = (user + system) * TICK
        return found
