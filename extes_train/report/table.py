"""The tables of a report: 80 columns of text, and Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from extes_train.report.differences import Block, blocks, note

WIDTH = 80
Format = Callable[[float], str]


def number(digits: int) -> Format:
    """Formats with so many digits after the point."""
    return lambda value: f"{value:.{digits}f}"


def short(value: float) -> str:
    """`1234567` -> `1.23M`: three significant digits and a unit."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def mebibytes(value: float) -> str:
    """Bytes as MiB, without the unit."""
    return f"{value / 2**20:.0f}"


QUALITY: list[tuple[str, str, Format]] = [
    ("base ppl", "base_perplexity", number(2)),
    ("ppl", "perplexity", number(3)),
    ("BLEU-4", "bleu4", number(2)),
    ("ROUGE-L", "rouge_l", number(3)),
    ("METEOR", "meteor", number(3)),
    ("Dist-1", "distinct1", number(3)),
    ("Dist-2", "distinct2", number(3)),
]
COST: list[tuple[str, str, Format]] = [
    ("seconds", "train_seconds", number(1)),
    ("steps", "steps", short),
    ("targets", "targets", short),
    ("targets/s", "targets_per_s", short),
    ("tokens", "tokens", short),
    ("MiB", "peak_memory_bytes", mebibytes),
    ("trainable", "trainable_parameters", short),
]

SHORT = [QUALITY[i] for i in (1, 2, 4, 6)]  # mean and deviation of these fit into 80 columns
DIFFERENCE = ("change", "95 % interval", "verdict")


def difference_rows(block: Block) -> list[list[str]]:
    """Name, change in per cent, interval, verdict."""
    return [
        [name, percent(one["change"]), " to ".join(map(percent, one["interval"])), one["verdict"]]
        for name, one in zip(block.names, block.differences)
    ]


def percent(value: float) -> str:
    """+1.2 %; a factor where it is far."""
    if not value < 10:
        return "far above" if value > 1e6 else f"x{1 + value:.3g}"
    return f"{value:+.2%}".replace("%", " %") if abs(value) < 0.1 else f"{value:+.1%}".replace("%", " %")


def cells(results: dict[str, Any], part: str, columns: Sequence[tuple[str, str, Format]]) -> list[list[str]]:
    """Rows of text: the arm, then its values; a dash where one is missing."""
    return [
        [arm["name"], *(_cell(arm[part].get(key), format) for _, key, format in columns)] for arm in results["arms"]
    ]


def _cell(value: Any, format: Format) -> str:
    return "-" if value is None else format(value)


def render_table(results: dict[str, Any]) -> str:
    """Quality and cost of every arm as text of at most 80 columns, with the warnings below."""
    tables = [
        _text([["held-out", *(name for name, _, _ in QUALITY)], *cells(results, "metrics", QUALITY)]),
    ]
    if results["groups"]:
        heads = [["mean ± sd", *(name for name, _, _ in SHORT)], *group_rows(results, SHORT)]
        tables.append(_text(heads))
    shown = blocks(results)
    tables += [_text([[block.title, *DIFFERENCE], *difference_rows(block)]) for block in shown]
    if shown:
        tables[-1] += "\n" + _wrapped(note(results))
    tables.append(_text([["cost", *(name for name, _, _ in COST)], *cells(results, "cost", COST)]))
    notes = [f"! {warning}" for warning in results["warnings"]]
    return "\n\n".join(tables) + "\n" + "".join("\n" + _wrapped(note) for note in notes)


def _text(rows: list[list[str]]) -> str:
    """Columns as wide as their content; the first takes what is left of 80, cut with an ellipsis."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    room = WIDTH - sum(width + 2 for width in widths[1:])
    first = min(widths[0], max(room, 8))
    lines = []
    for row in rows:
        name = row[0] if len(row[0]) <= first else row[0][: first - 1] + "…"
        lines.append(name.ljust(first) + "".join("  " + cell.rjust(width) for cell, width in zip(row[1:], widths[1:])))
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _wrapped(text: str) -> str:
    import textwrap

    return textwrap.fill(text, WIDTH, subsequent_indent="  ")


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join(["---", *["---:"] * (len(head) - 1)]) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)])


def group_rows(
    results: dict[str, Any], columns: Sequence[tuple[str, str, Format]] = tuple(QUALITY[1:])
) -> list[list[str]]:
    """Mean ± standard deviation over seeds of quality columns."""
    rows = []
    for group in results["groups"]:
        row = [f"{group['name']} ({len(group['seeds'])} seeds)"]
        for _, key, format in columns:
            mean, deviation = group["mean"].get(key), group["deviation"].get(key)
            row.append("-" if mean is None else f"{format(mean)} ± {format(deviation)}")
        rows.append(row)
    return rows
