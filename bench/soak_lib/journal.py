"""What was tried and how it ended: well, badly with an excuse, or badly."""

import collections
import http.client
import threading
import time

#: Failures that are kept word by word; all are counted.
KEPT = 100


class Wrong(Exception):
    """An answer that no fault of the network excuses."""


class Tunnel:
    """Where users go, what it can carry, and when something was done to it.

    `half_close`: one direction may end before the other. `frames`: datagrams keep their boundaries
    whatever happens. `largest`: datagram that it carries, for this load.
    """

    def __init__(self, name, port, half_close, frames, largest):
        self.name, self.port = name, port
        self.half_close, self.frames, self.largest = half_close, frames, largest
        self.troubles = []

    def trouble(self):
        """While the block runs, what fails has an excuse."""
        return _Trouble(self)

    def troubled(self, since):
        """Whether there was trouble after the moment `since`."""
        return any(end is None or end >= since for _, end in self.troubles[-3:])


class _Trouble:
    def __init__(self, tunnel):
        self.tunnel = tunnel

    def __enter__(self):
        self.interval = [time.monotonic(), None]
        self.tunnel.troubles.append(self.interval)

    def __exit__(self, *_):
        self.interval[1] = time.monotonic()


class Journal:
    """Counts by kind of load. All threads write into it."""

    def __init__(self):
        self.lock = threading.Lock()
        self.begun = time.monotonic()
        self.done = collections.Counter()
        self.excused = collections.Counter()
        self.failed = collections.Counter()
        self.notes = []

    def elapsed(self):
        return time.monotonic() - self.begun

    def fail(self, kind, text):
        with self.lock:
            self.failed[kind] += 1
            if len(self.notes) < KEPT:
                minutes, seconds = divmod(int(self.elapsed()), 60)
                self.notes.append(f"{minutes}:{seconds:02} {kind}: {text}")
                print(f"  FAILED {self.notes[-1]}", flush=True)

    def attempt(self, kind, tunnel, work, since=None):
        """Runs `work` and notes how it ended; whether it went well.

        `since` is when the connection that it uses last worked: what befell the tunnel after that
        excuses a failure. Without a tunnel there is no excuse, and for wrong bytes neither.
        """
        since = since or time.monotonic()
        where = tunnel.name if tunnel else "master"
        try:
            work()
        except (OSError, EOFError, http.client.HTTPException) as why:
            if tunnel and tunnel.troubled(since):
                with self.lock:
                    self.excused[kind] += 1
            else:
                self.fail(kind, f"{where}: {why!r}")
            return False
        # A wait in vain is a RuntimeError, text that is no JSON a ValueError.
        except (Wrong, RuntimeError, ValueError) as why:
            self.fail(kind, f"{where}: {why}")
            return False
        with self.lock:
            self.done[kind] += 1
        return True

    def totals(self):
        with self.lock:
            return sum(self.done.values()), sum(self.excused.values()), sum(self.failed.values())
