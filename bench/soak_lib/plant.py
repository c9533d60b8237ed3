"""What runs: a master with the ends of many tunnels, and some ends in processes of their own."""

import contextlib
import dataclasses
import random
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from compare_lib import machine

from . import users
from .api import Api
from .cutter import Cutter
from .journal import Tunnel, Wrong

KEY = "soak"
#: Sessions of datagrams end after this long, so that a pause need not last half a minute.
ENVIRONMENT = {"NP_UDP_READ_TIMEOUT": "10s"}
#: Until a tunnel must work after it was started or something was done to it.
COMES_BACK = 40.0


@dataclasses.dataclass(frozen=True)
class Plan:
    """A tunnel. `apart` names the ends that are processes, `fault` what is done to it."""

    name: str
    flow: str
    tls: int = 0
    proto: str = "native"
    fault: str = ""
    apart: tuple = ()


PLANS = (
    Plan("single-end", "single"),
    Plan("reverse", "reverse"),
    Plan("reverse, tls", "reverse", 1),
    Plan("forward", "forward"),
    Plan("forward, tls", "forward", 1),
    Plan("https", "forward", 1, "https"),
    Plan("http", "reverse", 1, "http"),
    Plan("classic", "reverse", 0, "classic"),
    Plan("apart", "reverse", 1, apart=("server", "client")),
    Plan("restarted", "reverse", 1, fault="restart"),
    Plan("restarted, forward", "forward", 0, fault="restart"),
    Plan("restarted, http", "reverse", 0, "http", fault="restart"),
    Plan("cut", "reverse", 1, fault="cut"),
    Plan("cut, forward", "forward", 0, fault="cut"),
    Plan("client killed", "reverse", 1, fault="kill", apart=("client",)),
    Plan("server killed", "forward", 0, fault="kill", apart=("server",)),
)


class Ports:
    """Ports below those that the system gives to connections: one of ours stays free while its
    listener is restarted."""

    def __init__(self):
        with open("/proc/sys/net/ipv4/ip_local_port_range") as given:
            self.numbers = list(range(10000, int(given.read().split()[0])))
        random.shuffle(self.numbers)

    def pick(self):
        while True:
            port = self.numbers.pop()
            with contextlib.suppress(OSError):
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    with socket.socket(socket.AF_INET, kind) as tried:
                        tried.bind(("127.0.0.1", port))
                return port


class End:
    """A server or client: an instance of the master, or a process."""

    def __init__(self, plant, url, alias, apart):
        self.plant, self.url, self.alias, self.apart = plant, url, alias, apart
        self.id = self.process = None
        self.start()

    def start(self):
        if self.apart:
            self.process = self.plant.processes.start(self.plant.binary, self.url, **ENVIRONMENT)
        else:
            self.id = self.plant.api.create(self.url, self.alias)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.plant.processes.started.remove(self.process)


class Running:
    """A tunnel that runs: its ends, and the network between them if that is to be cut."""

    def __init__(self, plant, plan):
        self.plan, self.cutter = plan, None
        pick, echo = plant.ports.pick, plant.echo
        at, users_port = pick(), pick()
        self.port = at
        native = plan.proto == "native"
        frames = plan.proto in ("native", "https")
        self.tunnel = Tunnel(plan.name, users_port, native, frames, 20000 if native else 1400)
        if plan.flow == "single":
            url = f"client://127.0.0.1:{users_port}/127.0.0.1:{echo}?mode=1"
            self.ends = [End(plant, url, plan.name, False)]
            return
        dialled = at
        if plan.fault == "cut":
            dialled = pick()
            self.cutter = Cutter(dialled, at)
        reverse = plan.flow == "reverse"
        at_server, at_client = (users_port, echo) if reverse else (echo, users_port)
        server = f"server://{KEY}@127.0.0.1:{at}/127.0.0.1:{at_server}?mode={1 if reverse else 2}"
        client = f"client://{KEY}@127.0.0.1:{dialled}/127.0.0.1:{at_client}?mode=2&min=4"
        proto = f"proto={plan.proto}"
        self.ends = [
            End(plant, f"{server}&tls={plan.tls}&{proto}", f"{plan.name}: server", "server" in plan.apart),
            End(plant, f"{client}&{proto}", f"{plan.name}: client", "client" in plan.apart),
        ]


class Plant:
    def __init__(self, binary, load):
        self.binary, self.ports, self.echo = binary, Ports(), load.ports["echo"]
        self.directory = Path(tempfile.mkdtemp(prefix="soak-"))
        self.processes = machine.Processes(self.directory / "log")
        self.running = []
        state, port = self.directory / "state.json", self.ports.pick()
        url = f"master://127.0.0.1:{port}?log=info"
        self.master = self.processes.start(binary, url, NP_STATE_FILE=str(state), **ENVIRONMENT)
        self.api = Api(port, "")

        def has_key():
            done = subprocess.run([binary, "key", state], capture_output=True, text=True, check=False)
            self.api.key = done.stdout.strip()
            return done.returncode == 0 and self._answers()

        machine.until(has_key, what="the master")

    def _answers(self):
        try:
            self.api.expect(200, "GET", "/info")
        except OSError:
            return False
        return True

    def start(self):
        """Starts all tunnels and waits until they carry users."""
        self.running = [Running(self, plan) for plan in PLANS]
        for running in self.running:
            comes_back(running.tunnel)

    def tunnels(self):
        return [running.tunnel for running in self.running]

    def with_fault(self, fault):
        return [running for running in self.running if running.plan.fault == fault]

    def listens(self):
        """The ports at which servers await their clients."""
        return [running.port for running in self.running if running.plan.flow != "single"]

    def pids(self):
        """Of all processes that run now, by name."""
        found = {"master": self.master.pid}
        for running in self.running:
            for end in running.ends:
                if end.apart:
                    found[end.alias] = end.process.pid
        return found

    def lasting(self):
        """The names of those that are never killed."""
        killed = {end.alias for running in self.with_fault("kill") for end in running.ends}
        return [name for name in self.pids() if name not in killed]

    def dead(self):
        """Processes that ended by themselves."""
        ended = [process for process in self.processes.started if process.poll() is not None]
        return [f"{process.args[1]} ended: {process.returncode}" for process in ended]

    def stop(self, keep):
        self.processes.stop()
        if not keep:
            shutil.rmtree(self.directory, ignore_errors=True)


def comes_back(tunnel, patience=COMES_BACK):
    """Waits until it has carried users of both transports, several in a row."""
    end, good, last = time.monotonic() + patience, 0, None
    while good < 3:
        try:
            users.connection(tunnel, 100)
            users.datagram(tunnel)
            good += 1
        except (OSError, EOFError) as why:
            good, last = 0, why
            time.sleep(0.05)
        if time.monotonic() > end:
            raise Wrong(f"did not come back within {patience:.0f} s: {last!r}")
