"""report.html (one file, no script, no network) and report.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from extes_train.report.differences import NOISE, best_arm, blocks, note, seed_groups
from extes_train.report.plots import Bar, Series, bar_plot, line_plot, smoothed
from extes_train.report.results import read_lines, run_directory
from extes_train.report.table import (
    COST,
    DIFFERENCE,
    QUALITY,
    Format,
    cells,
    difference_rows,
    group_rows,
    markdown_table,
    mebibytes,
    number,
    short,
)

EXAMPLES = 4
LOWER_IS_BETTER = {"perplexity"}
COMPARED = {"perplexity", "bleu4", "rouge_l", "meteor", "distinct1", "distinct2"}
COST_PLOTS: list[tuple[str, str, Format]] = [
    ("Seconds of training", "train_seconds", number(1)),
    ("Trained targets per second", "targets_per_s", short),
    ("Peak memory, MiB", "peak_memory_bytes", mebibytes),
    ("Trainable parameters", "trainable_parameters", short),
]
MEASURES_WITHOUT_VERDICT = "The other measures are over generated responses, of one decoding each: no verdict on them."
CAUTION = (
    "These are research models. None of them is a substitute for professional help, and no number here measures "
    "whether a response is safe or kind."
)


def facts(results: dict[str, Any]) -> list[tuple[str, str]]:
    """What was compared, as (name, value)."""
    measured: dict[str, Any] = next((arm["metrics"] for arm in results["arms"] if arm["metrics"]), {})
    costs: dict[str, Any] = next((arm["cost"] for arm in results["arms"] if arm["cost"]), {})
    data = results["data"] or {}
    found = [
        ("experiment", results["experiment"]),
        ("base model", results["base"]),
        ("budget", f"equal {results['budget']}" if results["budget"] else None),
        ("training data", data.get("train")),
        ("teacher", results["teacher"]),
        ("held-out side", _held_out(measured)),
        ("token list", results["digest"]),
        ("BLEU", measured.get("bleu_signature")),
        ("METEOR", "exact and stem modules, no synonyms" if "meteor" in measured else None),
        ("responses", _responses(measured)),
        ("memory", costs.get("memory_kind")),
    ]
    return [(name, str(value)) for name, value in found if value]


def _held_out(metrics: dict[str, Any]) -> str | None:
    if not metrics:
        return None
    text = f"{metrics.get('responses', 0):,} responses, {metrics.get('count', 0):,} targets"
    if metrics.get("dialogues"):
        text = f"{metrics['dialogues']:,} dialogues, {text}"
    left = {"truncated": metrics.get("truncated"), "skipped": metrics.get("skipped")}
    return text + "".join(f", {count:,} {name}" for name, count in left.items() if count)


def _responses(metrics: dict[str, Any]) -> str | None:
    return f"{metrics['num_responses']}, {metrics['decoding']}" if metrics.get("decoding") else None


def render_markdown(results: dict[str, Any], directory: Path) -> str:
    """report.md."""
    parts = ["# Comparison", "", *(f"- {name}: {value}" for name, value in facts(results)), "", "## Held-out side", ""]
    parts += [markdown_table(["arm", *(n for n, _, _ in QUALITY)], cells(results, "metrics", QUALITY)), ""]
    if results["groups"]:
        parts += [markdown_table(["mean ± sd", *(n for n, _, _ in QUALITY[1:])], group_rows(results)), ""]
    shown = blocks(results)
    for block in shown:
        parts += [markdown_table([block.title, *DIFFERENCE], difference_rows(block)), ""]
    parts += [note(results), ""] if shown else []
    parts += ["## Cost", "", markdown_table(["arm", *(n for n, _, _ in COST)], cells(results, "cost", COST)), ""]
    if results["warnings"]:
        parts += ["## Warnings", "", *(f"- {warning}" for warning in results["warnings"]), ""]
    for example in examples(results, directory):
        parts += [f"## Seeker: {_line(example['said'])}", "", f"- original: {_line(example['reference'])}"]
        parts += [*(f"- {name}: {_line(text)}" for name, text in example["responses"]), ""]
    return "\n".join([*parts, CAUTION, ""])


def _line(text: str) -> str:
    return " ".join(text.split()) or "(empty)"


def examples(results: dict[str, Any], directory: Path) -> list[dict[str, Any]]:
    """Held-out contexts that every measured arm answered, spread over the file."""
    answers = {
        arm["name"]: {
            (line.get("dialogue"), line.get("turn")): line
            for line in read_lines(run_directory(directory, arm) / "evaluation" / "generations.jsonl")
        }
        for arm in results["arms"]
        if arm["metrics"]
    }
    filled = {name: lines for name, lines in answers.items() if lines}
    if not filled:
        return []
    first = next(iter(filled.values()))
    common = [key for key in first if all(key in lines for lines in filled.values())]
    chosen = common[:: max(1, len(common) // EXAMPLES)][:EXAMPLES]
    return [
        {
            "said": first[key]["said"],
            "reference": first[key]["reference"],
            "responses": [(name, lines[key]["response"]) for name, lines in filled.items()],
        }
        for key in chosen
    ]


def curves(results: dict[str, Any], directory: Path) -> tuple[list[Series], list[Series]]:
    """Smoothed training loss of each arm over steps and over seconds."""
    by_step, by_second = [], []
    for arm in results["arms"]:
        lines = read_lines(run_directory(directory, arm) / "metrics.jsonl")
        lines = [line for line in lines if _is_finite(line.get("loss"))]
        seconds, clock = [], 0.0
        for line in lines:
            clock += float(line.get("seconds") or 0.0)
            seconds.append((clock, float(line["loss"])))
        look = (arm["name"], arm["tuning"] or "", arm["augmentation"] or "none")
        by_step.append(Series(*look, smoothed([(float(line["step"]), float(line["loss"])) for line in lines])))
        by_second.append(Series(*look, smoothed(seconds)))
    return by_step, by_second


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def heldout_curves(results: dict[str, Any], directory: Path) -> list[Series]:
    """Held-out perplexity over steps, where a run measured it more than once."""
    series = []
    for arm in results["arms"]:
        lines = read_lines(run_directory(directory, arm) / "heldout.jsonl")
        points = {float(line["step"]): float(line["perplexity"]) for line in lines if "perplexity" in line}
        finite = sorted((step, value) for step, value in points.items() if math.isfinite(value))
        series.append(Series(arm["name"], arm["tuning"] or "", arm["augmentation"] or "none", finite))
    return series


def render_page(results: dict[str, Any], directory: Path) -> str:
    """report.html."""
    by_step, by_second = curves(results, directory)
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    title = f"Comparison{': ' + results['experiment'] if results['experiment'] else ''}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="note">{escape(CAUTION)}</p>',
        *(f'<p class="warning">{escape(warning)}</p>' for warning in results["warnings"]),
        "<h2>Held-out side</h2>",
        _table(["arm", *(name for name, _, _ in QUALITY)], cells(results, "metrics", QUALITY), _best(results)),
    ]
    if results["groups"]:
        parts.append(_table(["mean ± sd", *(name for name, _, _ in QUALITY[1:])], group_rows(results), set()))
    shown = blocks(results)
    if shown:
        parts.append("<h3>Which differences are more than noise</h3>")
        parts += [_table([block.title, *DIFFERENCE], difference_rows(block), set()) for block in shown]
        parts.append(f'<p class="note">{escape(note(results))} {MEASURES_WITHOUT_VERDICT}</p>')
    parts += [_perplexity_plot(results), "<h2>Training loss</h2>"]
    legend = "Moving average over a thirtieth of the run. Solid: without alternatives; dashed: with them (dri), "
    legend += "whose loss is over other targets, so only lines of one kind compare."
    parts.append(_figure(line_plot(by_step, "optimizer steps", "loss"), "Loss over optimizer steps. " + legend))
    parts.append(_figure(line_plot(by_second, "seconds of training", "loss"), "Loss over seconds of training."))
    held_out = heldout_curves(results, directory)
    if any(len(one.points) > 1 for one in held_out):
        plot = line_plot(held_out, "optimizer steps", "held-out perplexity")
        parts.append(_figure(plot, "Held-out perplexity while training, as measured then (not smoothed)."))
    parts += ["<h2>Cost</h2>", _table(["arm", *(n for n, _, _ in COST)], cells(results, "cost", COST), set())]
    for name, key, format in COST_PLOTS:
        parts.append(f"<h3>{escape(name)}</h3>" + _figure(bar_plot(_bars(results, "cost", key), format, name), ""))
    found = examples(results, directory)
    if found:
        parts.append("<h2>What they answer</h2>" + "".join(_example(example) for example in found))
    rows = "".join(f"<br>{escape(name)}: <code>{escape(value)}</code>" for name, value in facts(results))
    parts.append(f'<footer class="facts">What was compared{rows}</footer>')
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<title>{escape(title)}</title>\n'
        f"<style>\n{style}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _perplexity_plot(results: dict[str, Any]) -> str:
    base = next((arm["metrics"]["base_perplexity"] for arm in results["arms"] if arm["metrics"]), None)
    plot = bar_plot(_bars(results, "metrics", "perplexity"), number(3), "held-out perplexity", base)
    return _figure(plot, "Held-out perplexity, lower is better; pale bars without, full bars with alternatives (dri).")


def _bars(results: dict[str, Any], part: str, key: str) -> list[Bar]:
    return [
        Bar(arm["name"], arm["tuning"] or "", arm["augmentation"] or "none", float(arm[part][key]))
        for arm in results["arms"]
        if arm[part].get(key) is not None
    ]


def _best(results: dict[str, Any]) -> set[tuple[int, int]]:
    """(row, column) of the best value of each compared column, where arms differ.

    For perplexity, of every arm that is within the noise of the best one.
    """
    best = set()
    alike = _alike(results)
    for column, (_, key, _) in enumerate(QUALITY, start=1):
        values = {
            i: arm["metrics"][key] for i, arm in enumerate(results["arms"]) if arm["metrics"].get(key) is not None
        }
        if key in COMPARED and len(set(values.values())) > 1:
            wanted = (min if key in LOWER_IS_BETTER else max)(values.values())
            equal = alike if key == "perplexity" else set()
            best |= {(i, column) for i, value in values.items() if value == wanted or i in equal}
    return best


def _alike(results: dict[str, Any]) -> set[int]:
    """Rows of the arms that nothing tells from the best one."""
    best = best_arm(results)
    names = {
        name
        for block in blocks(results)[:1]
        for name, d in zip(block.names, block.differences)
        if d["verdict"] == NOISE
    }
    groups = seed_groups(results["arms"])
    members = [arm["name"] for name in {best, *names} if name in groups for arm in groups[name]]
    return {i for i, arm in enumerate(results["arms"]) if arm["name"] in members}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], best: set[tuple[int, int]]) -> str:
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=best' if (i, j) in best else ''}>{escape(cell)}</td>" for j, cell in enumerate(row))
        + "</tr>"
        for i, row in enumerate(rows)
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _figure(plot: str, caption: str) -> str:
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{plot}{below}</figure>"


def _example(example: dict[str, Any]) -> str:
    pairs = [("seeker", example["said"]), ("original", example["reference"]), *example["responses"]]
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text) or '(empty)'}</dd>" for name, text in pairs)
    return f'<div class="example"><dl>{items}</dl></div>'
