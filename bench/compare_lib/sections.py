"""What is measured. Each section yields rows of one table, from rounds in which the programs alternate."""

import contextlib
import itertools
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from . import machine, masters, programs
from .growth import growth
from .programs import REVERSE, REVERSE_TLS, SINGLE, Missing

SETUPS = (SINGLE, REVERSE, REVERSE_TLS)


class Bench:
    """What all sections need: programs, load, how long and how often."""

    def __init__(self, compared, load, rounds, seconds, small, bare=None):
        self.compared, self.load, self.bare = compared, load, bare
        self.rounds, self.seconds, self.small = rounds, seconds, small
        self.lost = []

    def with_setup(self, setup, udp=False):
        return [p for p in self.compared if setup in (p.udp if udp else p.setups)]

    def tunnel(self, program, setup, target, udp=False):
        """A set-up that has carried its first user."""
        return _ready(self, program, setup, self.load.ports[target], udp)

    def rounds_of(self, name, compared, measure, most=None):
        """`measure` for every program in every round, in turn; a failure is noted, not hidden."""
        found = {program.name: [] for program in compared}
        for number in range(min(self.rounds, most or self.rounds)):
            # Every second round goes backwards, so that a drift of the machine hits all alike.
            for program in compared if number % 2 == 0 else reversed(compared):
                try:
                    found[program.name].append(measure(program))
                except (RuntimeError, Missing, OSError, subprocess.SubprocessError, ValueError) as why:
                    note = f"{name}, {program.name}, round {number + 1}: {why}"
                    print(f"  failed: {note}", flush=True)
                    self.lost.append(note)
        return {name: values for name, values in found.items() if values}

    def rows(self, section, case, found):
        """One row for each program and figure: median, least, most."""
        for program, values in found.items():
            for figure in values[0]:
                numbers = sorted(value[figure] for value in values)
                yield {
                    "section": section,
                    "case": case,
                    "program": program,
                    "figure": figure,
                    "median": statistics.median(numbers),
                    "least": numbers[0],
                    "most": numbers[-1],
                    "rounds": len(numbers),
                }


@contextlib.contextmanager
def _ready(bench, program, setup, port, udp):
    with program.start(setup, port, udp) as tunnel:
        if program.name != "direct":
            if udp:
                # The first datagrams set a session up; `load udp` waits for them itself, but not for
                # a listener.
                time.sleep(1.0)
            else:
                machine.until(lambda: programs.listens(tunnel.port), what=program.name)
                _first_user(tunnel.port)
        yield tunnel


def _first_user(port):
    """Waits until a connection is not refused or reset at once, then lets a pool fill."""
    import socket

    def works():
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=2) as user:
                user.settimeout(0.3)
                try:
                    # A target that waits for a request says nothing.
                    return user.recv(1) != b""
                except TimeoutError:
                    return True
        except OSError:
            return False

    machine.until(works, what="the first user")
    time.sleep(0.5)


def streams(bench):
    """Bulk transfers: throughput, and processor time of all processes of the program per GB."""
    for setup, connections, way in itertools.product(SETUPS, (1, 8), ("up", "down")):
        case = f"{setup}, {connections} stream{'s' * (connections > 1)} {way}"
        print(f"streams: {case}", flush=True)
        target = "discard" if way == "up" else "source"

        def measure(program, setup=setup, way=way, connections=connections, target=target):
            with bench.tunnel(program, setup, target) as tunnel:
                before = tunnel.processes.cpu_seconds()
                address = f"127.0.0.1:{tunnel.port}"
                got = bench.load.run("stream", way, address, connections, bench.seconds)
                used = tunnel.processes.cpu_seconds() - before
                figures = {"Gbit/s": got["gbits"]}
                if program.name != "direct":
                    figures["CPU-s/GB"] = used / (got["total"] / 1e9)
                return figures

        found = bench.rounds_of(case, bench.with_setup(setup), measure)
        yield from bench.rows("streams", case, found)


def _requests(bench, kinds):
    for setup, (kind, at_once) in itertools.product(SETUPS, kinds):
        word = {"close": "Connection: close", "keep": "keep-alive", "raw": "64 bytes, raw"}[kind]
        case = f"{setup}, {word}, {at_once} at once"
        print(f"requests: {case}", flush=True)
        target = "echo" if kind == "raw" else "http"

        def measure(program, setup=setup, kind=kind, at_once=at_once, target=target):
            with bench.tunnel(program, setup, target) as tunnel:
                address = f"127.0.0.1:{tunnel.port}"
                before = tunnel.processes.cpu_seconds()
                got = bench.load.run("requests", kind, address, at_once, bench.seconds)
                used = tunnel.processes.cpu_seconds() - before
                if not got["done"]:
                    raise RuntimeError("no request was answered")
                figures = {"per s": got["per_s"], "p50 ms": got["p50"], "p99 ms": got["p99"]}
                figures["failed"] = got["failed"]
                if program.name != "direct":
                    figures["CPU-µs each"] = used / got["done"] * 1e6
                return figures

        found = bench.rounds_of(case, bench.with_setup(setup), measure)
        yield from bench.rows("requests", case, found)


def connections(bench):
    """New connections: how many a second, and how long each takes."""
    return _requests(bench, (("close", 16), ("close", 64), ("raw", 16)))


def latency(bench):
    """Requests on kept connections."""
    return _requests(bench, (("keep", 1), ("keep", 64)))


def datagrams(bench):
    """UDP: 64 datagrams under way all the time, and bursts of 640."""
    for setup in (SINGLE, REVERSE):
        case = f"{setup}, UDP"
        print(f"datagrams: {case}", flush=True)

        def measure(program, setup=setup):
            with bench.tunnel(program, setup, "udp", udp=True) as tunnel:
                address = f"127.0.0.1:{tunnel.port}"
                before = tunnel.processes.cpu_seconds()
                flood = bench.load.run("udp", "flood", address, bench.seconds)
                used = tunnel.processes.cpu_seconds() - before
                burst = bench.load.run("udp", "burst", address, bench.seconds)
                figures = {
                    "round trips/s": flood["per_s"],
                    "lost %": 100 * flood["lost"] / flood["sent"],
                    "of a 640 burst": burst["mean"],
                    "worst burst": burst["least"],
                }
                if program.name != "direct":
                    figures["CPU-µs each"] = used / max(flood["per_s"] * bench.seconds, 1) * 1e6
                return figures

        found = bench.rounds_of(case, bench.with_setup(setup, udp=True), measure)
        yield from bench.rows("datagrams", case, found)


def start(bench):
    """From starting both ends to a byte that has come back."""
    for setup in SETUPS:
        print(f"start: {setup}", flush=True)

        def measure(program, setup=setup):
            begun = time.monotonic()
            with program.start(setup, bench.load.ports["echo"]) as tunnel:
                bench.load.run("first", f"127.0.0.1:{tunnel.port}", 20)
                return {"ms to the first user": (time.monotonic() - begun) * 1e3}

        compared = [p for p in bench.with_setup(setup) if p.name != "direct"]
        found = bench.rounds_of(f"start, {setup}", compared, measure)
        yield from bench.rows("start", setup, found)


def memory(bench):
    """Pss of all processes of the program: at rest, with idle connections, and after them."""
    counts = (50,) if bench.small else (1000, 8000)
    for setup in SETUPS:
        print(f"memory: {setup}", flush=True)

        def measure(program, setup=setup):
            with bench.tunnel(program, setup, "echo") as tunnel:
                pss = tunnel.processes.pss_mb
                figures = {"MB at rest": machine.settled(pss, patience=3)}
                for count in counts:
                    with bench.load.idle(tunnel.port, count):
                        figures[f"MB with {count} idle"] = machine.settled(pss)
                # It is seconds until thousands of connections are closed.
                figures["MB afterwards"] = machine.settled(pss, patience=20, still=8)
                return figures

        compared = [p for p in bench.with_setup(setup) if p.name != "direct"]
        # It hardly varies.
        found = bench.rounds_of(f"memory, {setup}", compared, measure, most=3)
        yield from bench.rows("memory", setup, found)


def size(bench):
    """The programs' files."""
    for program in bench.compared:
        with contextlib.suppress(Missing):
            if binary := program.binary():
                yield from bench.rows("size", "binary", {program.name: [_megabytes(binary)]})
    if bare := bench.bare:
        yield from bench.rows("size", "bare binary, profile small", {"nodepass": [_megabytes(bare)]})


def _megabytes(binary):
    return {"MB": binary.resolve().stat().st_size / 1e6}


def master(bench):
    """Our master alone: how fast it answers, and its memory with many instances."""
    ours = next((p for p in bench.compared if isinstance(p, programs.Nodepass)), None)
    if ours is None:
        return
    for count in (5,) if bench.small else (50, 500):
        print(f"master: {count} instances", flush=True)
        case = f"{count} instances"
        found = bench.rounds_of(f"master, {case}", [ours], lambda p, n=count: _master(bench, p, n))
        yield from bench.rows("master", case, found)


def _master(bench, program, count):
    with tempfile.TemporaryDirectory(prefix="compare-") as directory:
        with masters.started(program, Path(directory)) as master:
            pss = master.processes.pss_mb
            figures = {"MB without": machine.settled(pss, patience=3)}
            master.create(count, bench.load.ports["echo"])
            figures["MB with all running"] = machine.settled(pss)
            figures["GET /instances per s"] = master.wrk("instances", bench.seconds)
            figures["GET /info per s"] = master.wrk("info", bench.seconds)
            return figures


ALL = {
    section.__name__: section
    for section in (streams, connections, latency, datagrams, start, memory, size, master, growth)
}
