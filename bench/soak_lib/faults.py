"""What is done to tunnels while their users go on. Each must carry users again soon after."""

import random
import time

from compare_lib import machine

from .journal import Wrong
from .plant import comes_back

#: Until both ends must know that a silenced connection is dead: three report intervals of 5 s, and
#: one to look.
NOTICED = 20.0
#: Until no end holds a silenced connection any more: NOTICED, and the minute that a relay may wait
#: for its peer.
FREED = 120.0


def _does(soak, kind, running, fault):
    def work():
        with running.tunnel.trouble():
            fault()
            try:
                comes_back(running.tunnel)
            except Wrong as why:
                raise Wrong(f"{running.tunnel.name}: {why}") from why

    # Whatever fails here, the fault is no excuse: not for the master, and not for a tunnel that does
    # not come back.
    soak.journal.attempt(kind, None, work)


def restart(soak):
    """An end is restarted through the API, or gets another URL."""
    while not soak.stop.wait(random.uniform(3, 8)):
        running = random.choice(soak.plant.with_fault("restart"))
        end = random.choice(running.ends)
        way = random.choice((_restarted, _replaced))
        _does(soak, "restart", running, lambda: way(soak.plant.api, end))


def _restarted(api, end):
    path = f"/instances/{end.id}"
    api.expect(200, "PATCH", path, {"action": "restart"})
    for status in ("stopped", "running"):
        machine.until(lambda: api.expect(200, "GET", path)["status"] == status, what=status)


def _replaced(api, end):
    """Puts a URL that differs in nothing that counts."""
    path = f"/instances/{end.id}"
    old = api.expect(200, "GET", path)["url"]
    new = old.removesuffix("&slot=1000") if old.endswith("&slot=1000") else f"{old}&slot=1000"
    api.expect(200, "PUT", path, {"url": new})
    machine.until(lambda: api.expect(200, "GET", path)["status"] == "running", what="running")


def cut(soak):
    """The network between the ends resets all connections, or silently loses them."""
    while not soak.stop.wait(random.uniform(2, 6)):
        running = random.choice(soak.plant.with_fault("cut"))
        if random.random() < 0.7:
            _does(soak, "cut", running, running.cutter.reset)
        else:
            _does(soak, "cut", running, lambda: _silence(soak, running.cutter))


def _silence(soak, cutter):
    links = cutter.silence()
    soak.silenced.append((time.monotonic() + FREED, cutter, links))
    time.sleep(NOTICED)


def kill(soak):
    """An end is killed as nothing else is, and started again."""
    while not soak.stop.wait(random.uniform(3, 8)):
        running = random.choice(soak.plant.with_fault("kill"))
        end = next(end for end in running.ends if end.apart)

        def fault(end=end):
            end.kill()
            time.sleep(random.uniform(0, 2))
            end.start()

        _does(soak, "kill", running, fault)
