"""Write a comparison's report and print its table. Reads files only; can be done again at any time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from extes_train.dialogue.files import write_json, write_text
from extes_train.report.page import render_markdown, render_page
from extes_train.report.results import read_results
from extes_train.report.table import render_table


def write_report(directory: Path | str) -> dict[str, Any]:
    """Write DIR/results.json, report.md and report.html; returns what results.json holds.

    Raises DataError where the arms cannot be compared (see `read_results`).
    """
    directory = Path(directory)
    results = read_results(directory)
    write_text(directory / "report.md", render_markdown(results, directory))
    write_text(directory / "report.html", render_page(results, directory))
    write_json(directory / "results.json", results)
    return results


def print_table(results: dict[str, Any]) -> str:
    """Print quality and cost of every arm in 80 columns; returns the text."""
    text = render_table(results)
    print(text, flush=True)
    return text
