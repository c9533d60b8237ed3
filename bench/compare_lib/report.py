"""The table and the goals."""

from .growth import CURVES
from .programs import REVERSE, REVERSE_TLS, SINGLE

OURS = "nodepass"
#: Of these figures less is better.
LESS = ("CPU", "ms", "MB", "lost", "failed")

#: Section, case, figure, programs to compare with (the best of them counts), wanted ratio, and
#: whether it is the least or the most that is allowed.
GOALS = [
    *(
        ("streams", f"{REVERSE}, {streams} {way}", figure, ("rathole", "bore"), wanted, bound)
        for streams in ("1 stream", "8 streams")
        for way in ("up", "down")
        for figure, wanted, bound in (("Gbit/s", 1.5, "least"), ("CPU-s/GB", 0.5, "most"))
    ),
    *(
        ("streams", f"{SINGLE}, {streams} {way}", "Gbit/s", others, wanted, "least")
        for streams in ("1 stream", "8 streams")
        for way in ("up", "down")
        for others, wanted in ((("haproxy", "nginx"), 0.9), (("socat",), 2.0))
    ),
    *(
        ("streams", f"{REVERSE_TLS}, {streams} {way}", "Gbit/s", ("rathole",), 1.3, "least")
        for streams in ("1 stream", "8 streams")
        for way in ("up", "down")
    ),
    *(
        ("requests", f"{REVERSE}, Connection: close, {n} at once", "per s", ("rathole",), 1.3, "least")
        for n in (16, 64)
    ),
    *(
        ("requests", f"{REVERSE}, Connection: close, {n} at once", "p99 ms", ("rathole",), 1.0, "most")
        for n in (16, 64)
    ),
    *(
        ("requests", f"{REVERSE}, keep-alive, {n} at once", figure, ("rathole", "bore"), 1.0, bound)
        for n in (1, 64)
        for figure, bound in (("per s", "least"), ("p99 ms", "most"))
    ),
]

#: Section, case, figure, what is wanted, and whether it is the least or the most that is allowed.
BOUNDS = [
    *(
        ("requests", f"{REVERSE}, Connection: close, {n} at once", "failed", 0, "most")
        for n in (16, 64)
    ),
    ("memory", REVERSE, "MB at rest", 5, "most"),
    ("memory", REVERSE, "MB with 1000 idle", 12, "most"),
    ("memory", REVERSE, "MB with 8000 idle", 70, "most"),
    ("master", "50 instances", "MB with all running", 10, "most"),
    # Four times what a Go net/http server reached here for the same JSON, on two cores.
    ("master", "50 instances", "GET /instances per s", 4 * 2600, "least"),
    ("size", "binary", "MB", 4.0, "most"),
    ("size", "bare binary, profile small", "MB", 2.0, "most"),
]

#: By how much the cost of a unit of work may seem to grow: the noise of a run.
GROWTH = 1.15


def number(value):
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.3g}"


def less_is_better(figure):
    return any(word in figure for word in LESS)


def find(rows, section, case, figure, program):
    for row in rows:
        if (row["section"], row["case"], row["figure"], row["program"]) == (
            section, case, figure, program,
        ):
            return row
    return None


def curve(rows, what, figure, amounts):
    """What a unit cost, by how many there were."""
    found = {n: find(rows, "growth", f"{n} {what}", figure, OURS) for n in amounts}
    return {n: row["median"] for n, row in found.items() if row}


def cases(rows):
    """(section, case, figure), each once, in order."""
    return list(dict.fromkeys((row["section"], row["case"], row["figure"]) for row in rows))


def table(rows):
    """For every case and figure the programs' medians, and ours as a ratio to each."""
    lines, section = [], None
    for key in cases(rows):
        if key[0] != section:
            section = key[0]
            lines += ["", f"### {section}", "", "| case | figure | " + "program: median (min–max) |"]
            lines += ["|---|---|---|"]
        cells = []
        ours = find(rows, *key, OURS)
        for row in rows:
            if (row["section"], row["case"], row["figure"]) != key:
                continue
            cell = f"{row['program']} **{number(row['median'])}**"
            if row["rounds"] > 1:
                cell += f" ({number(row['least'])}–{number(row['most'])})"
            if ours and row is not ours and row["median"] and ours["median"]:
                cell += f", ours ×{ours['median'] / row['median']:.2f}"
            cells.append(cell)
        lines.append(f"| {key[1]} | {key[2]} | {' · '.join(cells)} |")
    return lines


def goals(rows):
    lines = ["| goal | wanted | measured | |", "|---|---|---|---|"]
    for section, case, figure, others, wanted, bound in GOALS:
        ours = find(rows, section, case, figure, OURS)
        peers = [row for name in others if (row := find(rows, section, case, figure, name))]
        if not ours or not peers or not all(row["median"] for row in peers):
            continue
        best = min if less_is_better(figure) else max
        peer = best(peers, key=lambda row: row["median"])
        ratio = ours["median"] / peer["median"]
        good = ratio >= wanted if bound == "least" else ratio <= wanted
        sign = "≥" if bound == "least" else "≤"
        lines.append(
            f"| {case}: {figure} against {peer['program']} | {sign} {wanted} × "
            f"| {ratio:.2f} × | {'met' if good else '**missed**'} |"
        )
    for section, case, figure, wanted, bound in BOUNDS:
        if ours := find(rows, section, case, figure, OURS):
            value = ours["median"]
            good = value >= wanted if bound == "least" else value <= wanted
            sign = "≥" if bound == "least" else "≤"
            verdict = "met" if good else "**missed**"
            lines.append(f"| {case}: {figure} | {sign} {wanted} | {number(value)} | {verdict} |")
    for what, figure, amounts in CURVES:
        costs = curve(rows, what, figure, amounts)
        if len(costs) > 1:
            grown = max(costs.values()) / costs[min(costs)]
            verdict = "met" if grown <= GROWTH else "**missed**"
            case = f"{figure}, from {min(costs)} to {max(costs)} {what}"
            lines.append(f"| {case} | ≤ {GROWTH} × | {grown:.2f} × at most | {verdict} |")
    return lines if len(lines) > 2 else ["No goal could be measured in this run."]
