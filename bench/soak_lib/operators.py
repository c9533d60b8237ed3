"""Users of the master's API, and strangers."""

import contextlib
import json
import os
import random
import socket
import time

from .journal import Wrong


def master(soak):
    """Instances are made, changed, restarted and removed."""
    while not soak.stop.wait(random.uniform(0.5, 1.5)):
        soak.journal.attempt("master", None, lambda: _life(soak))


def _life(soak):
    api, echo = soak.plant.api, soak.plant.echo
    here, there = soak.plant.ports.pick(), soak.plant.ports.pick()
    url = random.choice((
        f"client://127.0.0.1:{here}/127.0.0.1:{echo}?mode=1",
        f"server://x@127.0.0.1:{here}/127.0.0.1:{there}?mode=1&tls=1",
        # Nobody listens where it dials.
        f"client://x@127.0.0.1:{here}/127.0.0.1:{echo}?mode=2&min=2",
    ))
    path = f"/instances/{api.create(url, 'passing')}"
    changes = [
        {"alias": f"passing {random.random()}"},
        {"restart": False},
        {"meta": {"peer": {"sid": "a"}, "tags": {"site": "x" * random.randrange(200)}}},
        {"action": "reset"},
        {"action": "restart"},
        {"action": "stop"},
        {"action": "start"},
    ]
    for change in random.sample(changes, 4):
        api.expect(200, "PATCH", path, change)
    changed = api.expect(200, "PUT", path, {"url": f"{url}&log=debug"})
    if changed["url"] != f"{url}&log=debug":
        raise Wrong(f"PUT answered with {changed['url']}")
    api.expect(204, "DELETE", path)
    api.expect(404, "GET", path)
    soak.plant.ports.numbers[:0] = [here, there]


def events(soak):
    """A front end: reads the events for a while, and goes."""
    while not soak.stop.wait(random.uniform(0.1, 0.5)):
        seconds = random.choice((0.2, 1, 20))
        soak.journal.attempt("events", None, lambda: _watch(soak, seconds))


def _watch(soak, seconds):
    end = time.monotonic() + seconds
    initial, blocks = set(), 0
    with contextlib.closing(soak.plant.api.connect()) as connection:
        connection.request("GET", "/api/v1/events", headers={"X-API-Key": soak.plant.api.key})
        stream = connection.getresponse()
        if stream.status != 200:
            raise Wrong(f"GET /events: {stream.status}")
        while time.monotonic() < end and not soak.stop.is_set():
            line = stream.readline()
            if not line:
                raise EOFError(f"the events ended after {blocks}")
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
                blocks += 1
                if event["type"] == "initial":
                    initial.add(event["instance"]["id"])
        ours = {end.id for running in soak.plant.running for end in running.ends if end.id}
        if seconds > 0.5 and not soak.stop.is_set() and not ours <= initial:
            raise Wrong(f"{len(ours - initial)} instances were missing at the start of the events")


def lazy(soak):
    """A front end that does not read."""
    while not soak.stop.wait(1):
        with socket.socket() as front_end:
            front_end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            front_end.connect(("127.0.0.1", soak.plant.api.port))
            key = soak.plant.api.key
            front_end.send(f"GET /api/v1/events HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n".encode())
            soak.stop.wait(random.uniform(1, 40))


def polls(soak):
    """A dashboard that asks again and again, on one connection."""
    with contextlib.closing(soak.plant.api.connect()) as connection:
        while not soak.stop.wait(0.1):
            path = random.choice(("/info", "/instances", "/metrics", "/openapi.json", "/tcping"))
            if path == "/tcping":
                path += f"?target=127.0.0.1:{soak.plant.echo}"
            ask = soak.plant.api.expect
            if not soak.journal.attempt("polls", None, lambda: ask(200, "GET", path, None, connection)):
                connection.close()


def strangers(soak):
    """Scanners, and people with a wrong key."""
    api = soak.plant.api
    while not soak.stop.wait(random.uniform(0.2, 1)):
        if random.random() < 0.1:
            wrong = os.urandom(16).hex()
            soak.journal.attempt(
                "strangers", None, lambda: api.expect(401, "GET", "/info", None, None, wrong)
            )
            continue
        port = random.choice([api.port, *soak.plant.listens()])
        # Not the address of the others: some of this looks like a wrong key, and that bans.
        source = (f"127.0.0.{random.randrange(2, 50)}", 0)
        with contextlib.suppress(OSError), socket.create_connection(
            ("127.0.0.1", port), 5, source
        ) as scanner:
            scanner.send(random.choice((b"", b"GET / HTTP/1.0\r\n\r\n", os.urandom(300), b"\x16\x03\x01")))
            soak.stop.wait(random.choice((0, 0.1, 6)))
