"""Processes and what they cost: processor time and memory, from /proc."""

import contextlib
import json
import os
import resource
import select
import socket
import subprocess
import time

TICK = os.sysconf("SC_CLK_TCK")


def free_port(kind=socket.SOCK_STREAM):
    """A port that is free now, for both transports as far as one can tell."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp:
            tcp.bind(("127.0.0.1", 0))
            port = tcp.getsockname()[1]
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                with contextlib.suppress(OSError):
                    udp.bind(("127.0.0.1", port))
                    return port


def allow_many_files():
    """Thousands of connections need as many descriptors, here and in what is started from here."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Processes:
    """The processes of one program, children that they fork included."""

    def __init__(self, log):
        self.log = log
        self.started = []

    def start(self, *command, **environment):
        command = [str(part) for part in command]
        with open(self.log, "ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **environment},
            )
        self.started.append(process)
        return process

    def stop(self):
        for process in reversed(self.started):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()

    def pids(self):
        """All of them, by session: forked workers stay in their parent's."""
        sessions = {process.pid for process in self.started}
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError, IndexError):
                fields = _stat(name)
                if int(fields[3]) in sessions:
                    found.append(name)
        return found

    def cpu_seconds(self):
        """Used so far, ended and waited-for children included."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                total += sum(int(field) for field in _stat(pid)[11:15])
        return total / TICK

    def pss_mb(self):
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                total += memory_kib(pid)["Pss"]
        return total / 1024


def memory_kib(pid):
    """Pss, Pss_Anon, Private_Dirty and so on of a process."""
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        lines = [line.split() for line in rollup.readlines()[1:]]
    return {fields[0].rstrip(":"): int(fields[1]) for fields in lines}


def _stat(pid):
    """The fields behind the name: state, ppid, pgrp, session, …"""
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()


class Load:
    """The load generator."""

    def __init__(self, binary):
        self.binary = str(binary)
        self.target = subprocess.Popen(
            [self.binary, "target"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        self.ports = json.loads(self.target.stdout.readline())

    def run(self, *args, timeout=120):
        args = [str(arg) for arg in args]
        done = subprocess.run(
            [self.binary, *args], capture_output=True, timeout=timeout, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip() or f"load {args[0]} failed")
        return json.loads(done.stdout)

    @contextlib.contextmanager
    def idle(self, port, connections, timeout=120):
        """While the block runs, so many connections are open and have worked once."""
        args = [self.binary, "idle", f"127.0.0.1:{port}", str(connections)]
        process = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            ready, _, _ = select.select([process.stdout], [], [], timeout)
            if not ready or not process.stdout.readline():
                raise RuntimeError(f"{connections} connections could not be opened")
            yield
        finally:
            process.stdin.close()
            if process.poll() is None:
                process.kill()
            process.wait()

    def stop(self):
        self.target.kill()
        self.target.wait()


def until(true, patience=20.0, what="it"):
    """Asks again and again until it is so."""
    end = time.monotonic() + patience
    while not true():
        if time.monotonic() > end:
            raise RuntimeError(f"{what} did not come in {patience:.0f} s")
        time.sleep(0.01)


def settled(value, patience=10.0, share=0.01, still=1):
    """The value of something that falls for a while, once it has not fallen for `still` half seconds."""
    end, last, quiet = time.monotonic() + patience, value(), 0
    while quiet < still and time.monotonic() < end:
        time.sleep(0.5)
        now = value()
        quiet = quiet + 1 if now > last * (1 - share) else 0
        last = now
    return last
