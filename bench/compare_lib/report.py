"""The table, the goals and the picture."""

import html

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
]

#: Section, case, figure, the most that is allowed.
BOUNDS = [
    ("memory", REVERSE, "MB at rest", 5),
    ("memory", REVERSE, "MB with 1000 idle", 12),
    ("memory", REVERSE, "MB with 8000 idle", 70),
    ("master", "50 instances", "MB with all running", 10),
]


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
    for section, case, figure, most in BOUNDS:
        if ours := find(rows, section, case, figure, OURS):
            good = "met" if ours["median"] <= most else "**missed**"
            lines.append(f"| {case}: {figure} | ≤ {most} | {number(ours['median'])} | {good} |")
    return lines if len(lines) > 2 else ["No goal could be measured in this run."]


def chart(rows):
    """Bars of the throughput, and of the rate of new connections."""
    wanted = [
        key
        for key in cases(rows)
        if (key[0] == "streams" and key[2] == "Gbit/s")
        or (key[0] == "requests" and key[2] == "per s" and "close" in key[1])
    ]
    programs = list(dict.fromkeys(row["program"] for row in rows))
    colours = ("#9a9a9a", "#c8472b", "#2f6db5", "#4c9a50", "#b58a2f", "#7a4fb0", "#2fa3a3", "#555555")
    colour = {name: colours[index % len(colours)] for index, name in enumerate(programs)}
    bar, gap, left, width = 13, 16, 330, 380
    parts, y = [], 40
    x = 10
    for name in programs:
        parts.append(f'<rect x="{x}" y="12" width="12" height="12" fill="{colour[name]}"/>')
        parts.append(f'<text x="{x + 16}" y="22">{html.escape(name)}</text>')
        x += 30 + 8 * len(name)
    for key in wanted:
        here = [row for row in rows if (row["section"], row["case"], row["figure"]) == key]
        most = max(row["most"] for row in here) or 1
        middle = y + bar * len(here) / 2 + 4
        parts.append(f'<text x="{left - 8}" y="{middle}" text-anchor="end">{html.escape(key[1])}</text>')
        for row in here:
            length = width * row["median"] / most
            low, high = (left + width * row[side] / most for side in ("least", "most"))
            centre = y + bar / 2 - 1
            parts.append(
                f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar - 2}" '
                f'fill="{colour[row["program"]]}"/>'
            )
            parts.append(
                f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{centre}" y2="{centre}" '
                'stroke="black" stroke-width="1"/>'
            )
            label = f"{number(row['median'])} {key[2]}"
            parts.append(f'<text x="{max(high, left + length) + 6:.1f}" y="{y + bar - 3}">{label}</text>')
            y += bar
        y += gap
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 130}" height="{y}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
    )
    return "\n".join([head, *parts, "</svg>", ""])
