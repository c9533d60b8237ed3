"""The table, the picture and the summary."""

import html
import statistics

from . import samples as figures

COLOURS = ("#2f6db5", "#c8472b", "#4c9a50", "#b58a2f", "#7a4fb0", "#2fa3a3", "#555555")
WIDTH, HEIGHT, LEFT, GAP = 720, 220, 70, 50


def minute_table(samples):
    """A row for each minute: medians of its samples, and the requests that were done in it."""
    lines = [
        "| minute | master Pss MB | descriptors | threads | all others Pss MB | descriptors | relays TCP "
        "| UDP | idle | requests | excused | failed |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    before = (0, 0, 0)
    for minute in range(int(samples[-1].at // 60) + 1):
        here = [sample for sample in samples if sample.at // 60 == minute]
        if not here:
            continue
        # A pause has more samples than load has; a minute counts as one only if it was all of it.
        loaded = [sample for sample in here if not sample.resting]
        rows = [_row(sample) for sample in loaded or here]
        middle = [statistics.median(column) for column in zip(*rows)]
        cells = [f"{middle[0]:.2f}", *(f"{x:.0f}" for x in middle[1:3]), f"{middle[3]:.2f}"]
        cells += [f"{x:.0f}" for x in middle[4:]]
        cells += [str(now - then) for now, then in zip(here[-1].totals, before)]
        before = here[-1].totals
        mark = "" if loaded else " (rest)"
        lines.append(f"| {minute}{mark} | {' | '.join(cells)} |")
    return lines


def _row(sample):
    master = sample.processes.get("master", dict.fromkeys(figures.FIGURES, 0))
    others = [process for name, process in sample.processes.items() if name != "master"]
    return (
        master["Pss"] / 1024,
        master["descriptors"],
        master["threads"],
        sum(process["Pss"] for process in others) / 1024,
        sum(process["descriptors"] for process in others),
        *(sample.counts[name] for name in ("tcps", "udps", "pool")),
    )


def rest_table(rests, lasting):
    """A row for each pause: memory (what it allocated in brackets) and descriptors of each process."""
    lines = [f"| at minute | {' | '.join(lasting)} | idle connections |", f"|{'---|' * (len(lasting) + 2)}"]
    for rest in rests:
        cells = []
        for name in lasting:
            if not (of := rest.processes.get(name)):
                cells.append("gone")
                continue
            cells.append(
                f"{of['Pss'] / 1024:.2f} MB ({of['Pss_Anon'] / 1024:.2f}), "
                f"{of['descriptors']:.0f} fd, {of['threads']:.0f} threads"
            )
        lines.append(f"| {rest.at / 60:.1f} | {' | '.join(cells)} | {rest.counts['pool']:.0f} |")
    return lines


def slopes(rests, lasting):
    """Growth per hour of each process over all pauses, by least squares; more of a hint than a proof."""
    if len(rests) < 3:
        return []
    hours = [rest.at / 3600 for rest in rests]
    lines = []
    for name in lasting:
        if not all(name in rest.processes for rest in rests):
            continue
        slope = [
            statistics.linear_regression(hours, [rest.processes[name][figure] for rest in rests]).slope
            for figure in ("Pss", "descriptors")
        ]
        lines.append(f"- {name}: {slope[0]:+.0f} KiB and {slope[1]:+.1f} descriptors an hour")
    return lines


def load_table(journal):
    lines = ["| load | done | excused | failed |", "|---|---|---|---|"]
    for kind in sorted({*journal.done, *journal.excused, *journal.failed}):
        lines.append(f"| {kind} | {journal.done[kind]} | {journal.excused[kind]} | {journal.failed[kind]} |")
    return lines


def summary(about, verdict, journal, rests, lasting, samples):
    """The markdown file."""
    lines = ["# Soak", "", "Written by `bench/soak`; nothing here is edited by hand.", "", *about, ""]
    if verdict:
        lines += ["**Failed**:", "", *(f"- {text}" for text in verdict)]
    else:
        lines += ["**Passed**: no request failed without an excuse, and nothing grew."]
    share, besides = figures.BOUNDS["Pss"]
    lines += ["", "## Pauses", ""]
    fd_share, fds = figures.BOUNDS["descriptors"]
    lines += [f"Users gone, pools at rest, everything else running; medians of {figures.WINDOW} samples."]
    lines += [f"The last may be {share:.0%} and {besides} KiB above the first, and {fd_share:.0%} and {fds}"]
    lines += ["descriptors. In brackets what the process allocated itself (`Pss_Anon`)."]
    lines += ["", *rest_table(rests, lasting), "", *slopes(rests, lasting)] if rests else []
    lines += ["", "![memory and descriptors](soak.svg)", "", "## Requests", ""]
    lines += ["Excused is what failed on a tunnel that was being restarted, cut or killed.", ""]
    lines += [*load_table(journal), "", "## Minutes", "", *minute_table(samples)]
    return "\n".join(lines) + "\n"


def chart(samples, lasting):
    """Memory and descriptors over time, the pauses shaded."""
    span = samples[-1].at
    height = 2 * (HEIGHT + GAP) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 20}" height="{height}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
    ]
    x = LEFT
    for colour, name in zip(COLOURS, lasting):
        parts.append(f'<rect x="{x}" y="8" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{x + 16}" y="18">{html.escape(name)}</text>')
        x += 36 + 7 * len(name)
    panels = (("Pss", 1024, "memory (Pss), MB"), ("descriptors", 1, "descriptors"))
    for number, (figure, unit, title) in enumerate(panels):
        top = 45 + number * (HEIGHT + GAP)
        parts += _panel(samples, lasting, span, top, figure, unit, title)
    return "\n".join([*parts, "</svg>", ""])


def _panel(samples, lasting, span, top, figure, unit, title):
    lines = {
        name: [(s.at, s.processes[name][figure] / unit) for s in samples if name in s.processes]
        for name in lasting
    }
    most = _round_up(max(value for line in lines.values() for _, value in line))
    yield f'<text x="{LEFT}" y="{top - 6}" font-weight="bold">{title}</text>'
    for begin, end in _rests(samples):
        x, width = LEFT + WIDTH * begin / span, max(1, WIDTH * (end - begin) / span)
        yield f'<rect x="{x:.1f}" y="{top}" width="{width:.1f}" height="{HEIGHT}" fill="#eeeeee"/>'
    for step in range(5):
        y = top + HEIGHT * (1 - step / 4)
        yield f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y}" y2="{y}" stroke="#cccccc"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{most * step / 4:g}</text>'
    ticks = max(1, round(span / 60 / 10))
    for minute in range(0, int(span / 60) + 1, ticks):
        x = LEFT + WIDTH * minute * 60 / span
        yield f'<text x="{x:.1f}" y="{top + HEIGHT + 16}" text-anchor="middle">{minute} min</text>'
    for colour, line in zip(COLOURS, lines.values()):
        points = " ".join(
            f"{LEFT + WIDTH * at / span:.1f},{top + HEIGHT * (1 - value / most):.1f}" for at, value in line
        )
        yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _rests(samples):
    """Begin and end of each pause."""
    begin = None
    for sample in samples:
        if sample.resting and begin is None:
            begin = sample.at
        elif not sample.resting and begin is not None:
            yield begin, sample.at
            begin = None
    if begin is not None:
        yield begin, samples[-1].at


def _round_up(value):
    """To a number that reads well at a quarter of it."""
    step = 4
    while step * 10 < value:
        step *= 10
    while step < value:
        step *= 1.25 if step * 1.25 >= value else 2
    return step
