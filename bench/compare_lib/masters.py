"""A master of ours under measurement: started, filled with instances, asked."""

import contextlib
import json
import subprocess
import urllib.request

from . import machine, programs


class Master:
    """A running master and its key."""

    def __init__(self, base, key, processes):
        self.base, self.key, self.processes = base, key, processes

    def create(self, count, target):
        """Starts so many instances that forward to `target`."""
        for _ in range(count):
            url = f"client://127.0.0.1:{machine.free_port()}/127.0.0.1:{target}?mode=1"
            headers = {"X-API-Key": self.key, "Content-Type": "application/json"}
            body = json.dumps({"url": url}).encode()
            request = urllib.request.Request(f"{self.base}/instances", body, headers)
            with urllib.request.urlopen(request, timeout=10) as answer:
                if answer.status != 201:
                    raise RuntimeError(f"POST {url}: {answer.status}")

    def wrk(self, path, seconds):
        """Requests per second for `path`."""
        command = ["wrk", "-t2", "-c32", f"-d{max(1, round(seconds))}s"]
        command += ["-H", f"X-API-Key: {self.key}", f"{self.base}/{path}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        if "Non-2xx" in done.stdout:
            raise RuntimeError(f"{path}: not all answers are good")
        line = next(line for line in done.stdout.splitlines() if line.startswith("Requests/sec:"))
        return float(line.split()[1])


@contextlib.contextmanager
def started(program, directory):
    """A master that keeps its state in `directory`."""
    port, state = machine.free_port(), directory / "state.json"
    processes = machine.Processes(directory / "log")
    try:
        url = f"master://127.0.0.1:{port}?log=warn"
        processes.start(program.binary(), url, NP_STATE_FILE=str(state))
        machine.until(lambda: programs.listens(port), what="the master")
        yield Master(f"http://127.0.0.1:{port}/api/v1", _key(program, state), processes)
    finally:
        processes.stop()


def _key(program, state):
    done = subprocess.run(
        [str(program.binary()), "key", str(state)], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return done.stdout.split()[-1]
    return json.loads(state.read_text())["master"]["key"]
