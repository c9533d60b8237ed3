"""The pictures."""

import html
import math

from .growth import CURVES
from .report import cases, curve, number

COLOURS = ("#9a9a9a", "#c8472b", "#2f6db5", "#4c9a50", "#b58a2f", "#7a4fb0", "#2fa3a3", "#555555")


def bars(rows):
    """Bars of the throughput, and of the rate of new connections."""
    wanted = [
        key
        for key in cases(rows)
        if (key[0] == "streams" and key[2] == "Gbit/s")
        or (key[0] == "requests" and key[2] == "per s" and "close" in key[1])
    ]
    programs = list(dict.fromkeys(row["program"] for row in rows))
    colour = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(programs)}
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
    return _svg(left + width + 130, y, parts)


def curves(rows):
    """What a unit of work costs, the more there is of it, as a ratio to the least amount of work."""
    left, top, width, height = 50, 20, 420, 240
    lines = [(what, figure, curve(rows, what, figure, amounts)) for what, figure, amounts in CURVES]
    lines = [line for line in lines if len(line[2]) > 1]
    doublings = max((len(costs) - 1 for _, _, costs in lines), default=1)
    highest = max((max(costs.values()) / costs[min(costs)] for *_, costs in lines), default=1.0)
    highest = max(1.5, highest * 1.1)

    def y_of(ratio):
        return top + height * (1 - ratio / highest)

    parts = []
    for step in range(math.floor(highest * 2) + 1):
        y = y_of(step / 2)
        parts.append(f'<line x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{step / 2:g} ×</text>')
    for step in range(doublings + 1):
        x = left + width * step / doublings
        parts.append(f'<text x="{x:.1f}" y="{top + height + 18}" text-anchor="middle">{2**step} ×</text>')
    for index, (what, figure, costs) in enumerate(lines):
        least, colour = min(costs), COLOURS[(index + 1) % len(COLOURS)]
        points = " ".join(
            f"{left + width * math.log2(n / least) / doublings:.1f},{y_of(cost / costs[least]):.1f}"
            for n, cost in costs.items()
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = top + 12 + 18 * index
        said = f"{figure}, from {least} to {max(costs)} {what}"
        parts.append(f'<rect x="{left + width + 20}" y="{y - 9}" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{left + width + 38}" y="{y + 1}">{html.escape(said)}</text>')
    return _svg(left + width + 380, top + height + 30, parts)


def _svg(width, height, parts):
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
    )
    return "\n".join([head, *parts, "</svg>", ""])
