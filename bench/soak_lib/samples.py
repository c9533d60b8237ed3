"""What the processes take, over time, and whether it grew."""

import contextlib
import dataclasses
import os
import statistics
import time

from compare_lib import machine

from .journal import Wrong

#: What is sampled of a process: KiB, KiB of what it allocated itself, and counts.
FIGURES = ("Pss", "Pss_Anon", "descriptors", "threads")
#: What may not grow, by how much of what it was, and how much besides.
BOUNDS = {"Pss": (0.05, 200), "descriptors": (0.05, 2)}

#: Seconds between samples.
EVERY = 5.0
#: In a pause: until the last relay must have ended (a silenced one after 75 s at the latest), how
#: long the pools must stand still, what the allocator gets to give memory back (it takes a second),
#: and how long samples are taken, one a second.
RELAYS_END, POOLS_STAND, PURGE, WINDOW = 120.0, 5, 5.0, 20


@dataclasses.dataclass
class Sample:
    """One moment. `processes` has the figures of each process, `counts` what the master counts."""

    at: float
    resting: bool
    processes: dict
    counts: dict
    totals: tuple


@dataclasses.dataclass
class Rest:
    """A pause: medians of its window."""

    at: float
    processes: dict
    counts: dict


def of_process(pid):
    memory = machine.memory_kib(pid)
    with open(f"/proc/{pid}/status") as status:
        threads = next(int(line.split()[1]) for line in status if line.startswith("Threads:"))
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    return dict(zip(FIGURES, (memory["Pss"], memory["Pss_Anon"], descriptors, threads)))


def take(soak):
    """A sample of everything now. A process that is dead right now is left out."""
    processes = {}
    for name, pid in soak.plant.pids().items():
        with contextlib.suppress(OSError, KeyError):
            processes[name] = of_process(pid)
    counts = dict.fromkeys(("tcps", "udps", "pool"), 0)
    instances = soak.plant.api.instances()
    for instance in instances:
        for name in counts:
            counts[name] += instance[name]
    counts["instances"] = len(instances)
    counts["streams"] = soak.plant.api.gauge("nodepass_event_streams")
    sample = Sample(soak.journal.elapsed(), soak.resting, processes, counts, soak.journal.totals())
    soak.samples.append(sample)
    return sample


def watch(soak):
    """Samples every few seconds but in pauses, which take their own."""
    while not soak.over.wait(EVERY):
        if not soak.resting:
            soak.journal.attempt("samples", None, lambda: take(soak))


def rest(soak):
    """With the load paused: waits until nothing is left of it, then takes the medians."""
    end, pools = time.monotonic() + RELAYS_END, []
    while True:
        counts = take(soak).counts
        pools.append(counts["pool"])
        still = counts["tcps"] == counts["udps"] == counts["streams"] == 0
        # The check of certificates of the older generations takes one connection now and then.
        if still and len(pools) > POOLS_STAND and _span(pools[-POOLS_STAND:]) <= 2:
            break
        if time.monotonic() > end:
            raise Wrong(f"after {RELAYS_END:.0f} s without users there still are {counts}")
        time.sleep(1)
    time.sleep(PURGE)
    window = []
    for _ in range(WINDOW):
        window.append(take(soak))
        time.sleep(1)
    names = window[-1].processes
    processes = {
        name: {
            figure: statistics.median(s.processes[name][figure] for s in window if name in s.processes)
            for figure in FIGURES
        }
        for name in names
    }
    counts = {name: statistics.median(s.counts[name] for s in window) for name in window[0].counts}
    return Rest(window[-1].at, processes, counts)


def _span(values):
    return max(values) - min(values)


def growth(first, last, lasting):
    """What grew beyond its bound from the first pause to the last, in words."""
    found = []
    for name in lasting:
        if not (name in first.processes and name in last.processes):
            found.append(f"{name}: was not there in both pauses")
            continue
        for figure, (share, besides) in BOUNDS.items():
            before, after = (rest.processes[name][figure] for rest in (first, last))
            most = before * (1 + share) + besides
            if after > most:
                grew = f"{figure} grew from {before:.0f} to {after:.0f}"
                found.append(f"{name}: {grew}, allowed were {most:.0f}")
    for what in ("instances", "streams"):
        if first.counts[what] != last.counts[what]:
            found.append(f"{what}: {last.counts[what]:.0f} instead of {first.counts[what]:.0f}")
    return found
