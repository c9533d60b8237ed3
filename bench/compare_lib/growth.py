"""Does cost grow faster than the work? Ours alone, with twice the work each time."""

import tempfile
from pathlib import Path

from . import machine, masters, programs
from .programs import REVERSE

#: What is doubled, the figure that should not grow, and how much there is of it.
STREAMS = ("streams", "CPU-s/GB", (1, 2, 4, 8, 16))
CONNECTIONS = ("connections at once", "CPU-µs each", (2, 4, 8, 16, 32, 64, 128))
IDLE = ("idle connections", "kB each", (1000, 2000, 4000, 8000))
MEMORY = ("instances", "kB each", (25, 50, 100, 200))
LISTED = ("instances", "CPU-µs per instance listed", (25, 50, 100, 200))
CURVES = (STREAMS, CONNECTIONS, IDLE, MEMORY, LISTED)


def growth(bench):
    """The cost of one unit of work, the more of it there is at once."""
    ours = [p for p in bench.compared if isinstance(p, programs.Nodepass)][:1]
    for (what, _, amounts), measure in (
        (STREAMS, _stream),
        (CONNECTIONS, _connection),
        (IDLE, _idle),
        (MEMORY, _instances),
    ):
        for amount in amounts[:2] if bench.small else amounts:
            case = f"{amount} {what}"
            print(f"growth: {case}", flush=True)
            found = bench.rounds_of(case, ours, lambda p, n=amount, m=measure: m(bench, p, n), most=3)
            yield from bench.rows("growth", case, found)


def _stream(bench, program, amount):
    with bench.tunnel(program, REVERSE, "discard") as tunnel:
        before = tunnel.processes.cpu_seconds()
        address = f"127.0.0.1:{tunnel.port}"
        got = bench.load.run("stream", "up", address, amount, bench.seconds)
        used = tunnel.processes.cpu_seconds() - before
        return {STREAMS[1]: used / (got["total"] / 1e9)}


def _connection(bench, program, amount):
    with bench.tunnel(program, REVERSE, "http") as tunnel:
        before = tunnel.processes.cpu_seconds()
        address = f"127.0.0.1:{tunnel.port}"
        got = bench.load.run("requests", "close", address, amount, bench.seconds)
        used = tunnel.processes.cpu_seconds() - before
        return {CONNECTIONS[1]: used / got["done"] * 1e6}


def _idle(bench, program, amount):
    with bench.tunnel(program, REVERSE, "echo") as tunnel:
        pss = tunnel.processes.pss_mb
        rest = machine.settled(pss, patience=3)
        with bench.load.idle(tunnel.port, amount):
            return {IDLE[1]: (machine.settled(pss) - rest) * 1024 / amount}


def _instances(bench, program, amount):
    with tempfile.TemporaryDirectory(prefix="compare-") as directory:
        with masters.started(program, Path(directory)) as master:
            rest = machine.settled(master.processes.pss_mb, patience=3)
            master.create(amount, bench.load.ports["echo"])
            memory = machine.settled(master.processes.pss_mb) - rest
            before = master.processes.cpu_seconds()
            asked = master.wrk("instances", bench.seconds) * max(1, round(bench.seconds))
            used = master.processes.cpu_seconds() - before
            return {MEMORY[1]: memory * 1024 / amount, LISTED[1]: used / asked / amount * 1e6}
