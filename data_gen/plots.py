"""Pictures for the card, where matplotlib is installed; the card is whole without them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def write_plots(out: Path, card: dict[str, Any]) -> list[str]:
    """Write scenarios.png, strategies.png and, for a generation, rounds.png; returns their names."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib.figure import Figure
    except ImportError:
        log.info("no plots: matplotlib is not installed (extra `plots`)")
        return []
    names = []
    for table in ("scenarios", "strategies"):
        names.append(_bars(Figure, out, table, card[table]))
    if card.get("rounds"):
        names.append(_rounds(Figure, out, card["rounds"]))
    return names


def _bars(figure_type: Any, out: Path, name: str, rows: list[dict[str, Any]]) -> str:
    rows = list(reversed(rows[:60]))
    figure = figure_type(figsize=(8, 1 + 0.22 * max(len(rows), 1)), layout="constrained")
    axes = figure.subplots()
    axes.barh([row["id"] for row in rows], [row["share"] for row in rows], label="here")
    published = [(i, row["published_share"]) for i, row in enumerate(rows) if row["published_share"] is not None]
    if published:
        axes.plot([share for _, share in published], [i for i, _ in published], "k|", label="published")
        axes.legend()
    axes.set_xlabel(f"share of {'dialogues' if name == 'scenarios' else 'supporter turns'}")
    axes.tick_params(axis="y", labelsize=7)
    figure.savefig(out / f"{name}.png", dpi=110)
    return f"{name}.png"


def _rounds(figure_type: Any, out: Path, rounds: list[dict[str, Any]]) -> str:
    figure = figure_type(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    for key in ("acceptance", "novelty"):
        axes.plot([row["round"] for row in rounds], [row[key] for row in rounds], marker=".", label=key)
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("round")
    axes.legend()
    figure.savefig(out / "rounds.png", dpi=110)
    return "rounds.png"
