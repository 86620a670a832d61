"""The data card: README.md in the Hugging Face layout and card.json, counts that sum, no clock time in either."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from data_gen.card_layout import hugging_face_header
from data_gen.plots import write_plots
from data_gen.statistics import Statistics, statistics_of
from extes_train.dialogue.files import write_json, write_text
from extes_train.dialogue.taxonomy import Taxonomy
from extes_train.errors import RunDirError

Records = Callable[..., Iterator[dict[str, Any]]]
NOTICE = (
    "Synthetic, not clinical: written by a program or a language model, checked by pattern filters, not by "
    "clinicians. Not for diagnosis, treatment or crisis care."
)
LIMITS = (
    "Filters are patterns: they miss what is said in other words (extes review shows records to people).",
    "Strategy labels are the teacher's own and were not annotated by people.",
    "quarantine.jsonl holds records with words of acute crisis; they are in no side.",
    "Dialogues mirror the teacher's biases and the seeds' selection of people and places.",
)
OFFLINE = (
    "The teacher was `offline-teacher`: a program that composes sentences from banks, no language model. "
    "This data shows that the machinery works; it is no training data for a product."
)


def write_generation_card(work: Any, records: Records, out: Path, stopped: str, message: str) -> dict[str, Any]:
    """Write README.md, card.json and plots for a generation; returns the content of card.json."""
    state, config, teacher = work.expansion, work.config, work.teacher
    found = statistics_of(records())
    card = {
        "schema": 1,
        "what": "generate",
        "notice": NOTICE,
        "stopped": stopped,
        "message": message,
        "counts": {
            "candidates": state.committed,
            "accepted": state.accepted.total(),
            "rejected": state.reasons.total(),
            "quarantined": len(work.quarantined),
            "asked_for": state.size,
            "by_side": {side: state.accepted[side] for side in state.side_shares},
            "seeds_by_side": {side: len(dealt) for side, dealt in state.seeds.items()},
            "rejected_by_reason": dict(sorted(state.reasons.items())),
            "given_up_scenarios": {side: sorted(names) for side, names in state.exhausted.items() if names},
        },
        "measures": found.measures(),
        **_tables(found, state.taxonomy),
        "rounds": [
            {
                "round": number,
                "candidates": round_.candidates,
                "accepted": round_.accepted,
                "acceptance": round(round_.acceptance, 4),
                "novelty": round(round_.mean_novelty, 4),
            }
            for number, round_ in enumerate(state.rounds)
        ],
        "teacher": _teacher(teacher, work.prompt_tokens, work.completion_tokens),
        "settings": {
            **{key: getattr(config, key) for key in ("seed", "shard", "target", "num_exemplars", "seed_share")},
            "lag": config.resolved_lag,
            "taxonomy": state.taxonomy.name,
            "filters": dict(vars(config.filters)),
        },
        "limits": list(LIMITS),
    }
    _write(out, card, found, [side for side in state.side_shares if state.accepted[side]])
    return card


def write_inpaint_card(counts: dict[str, Any], work: Any, records: Records, out: Path, message: str) -> dict[str, Any]:
    """Write README.md, card.json and plots for an inpainting; returns the content of card.json."""
    config, found = work.config, statistics_of(records())
    card = {
        "schema": 1,
        "what": "inpaint",
        "notice": NOTICE,
        "stopped": counts.pop("stopped"),
        "message": message,
        "counts": counts,
        "measures": {**found.measures(), **work.diversity.measures()},
        **_tables(found, work.taxonomy),
        "alternatives_per_turn": {str(n): found.alternatives_of_turn[n] for n in sorted(found.alternatives_of_turn)},
        "teacher": _teacher(work.teacher, work.prompt_tokens, work.completion_tokens),
        "settings": {
            key: getattr(config, key)
            for key in (
                *("seed", "shard", "num_alternatives", "context", "scope", "strategy", "verbalized", "oversample"),
                *("max_similarity", "min_consistency", "sides"),
            )
        }
        | {"embedding_model": Path(config.embedding_model).name if config.embedding_model else None},
        "limits": list(LIMITS),
    }
    _write(out, card, found, list(work.written_sides))
    return card


def write_merge_card(
    counts: dict[str, Any], records: Iterable[dict[str, Any]], taxonomy: Taxonomy, out: Path, sides: list[str]
) -> dict[str, Any]:
    """Write README.md, card.json and plots for merged shards; returns the content of card.json."""
    found = statistics_of(records)
    card = {
        "schema": 1,
        "what": "merge",
        "notice": NOTICE,
        "message": f"{counts['kept']} of {counts['read']} dialogues of {counts['shards']} shards kept",
        "counts": counts,
        "measures": found.measures(),
        **_tables(found, taxonomy),
        "limits": list(LIMITS),
    }
    _write(out, card, found, sides)
    return card


def _teacher(teacher: Any, prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    cost = prompt_tokens * teacher.price_per_million_prompt_tokens
    cost += completion_tokens * teacher.price_per_million_completion_tokens
    return {
        "name": teacher.name,
        "model": teacher.model,
        "temperature": teacher.temperature,
        "terms": teacher.terms,
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "list_price": round(cost / 1e6, 4),
        "currency": teacher.currency,
    }


def _tables(found: Statistics, taxonomy: Taxonomy) -> dict[str, Any]:
    """Scenario and strategy counts beside the published ones of the taxonomy."""
    return {
        "scenarios": _table(found.scenarios, taxonomy.scenarios),
        "strategies": _table(found.strategies, taxonomy.strategies),
        "sides": dict(sorted(found.sides.items())),
        "utterances": {str(n): found.utterances[n] for n in sorted(found.utterances)},
    }


def _table(counts: Mapping[str, int], known: Mapping[str, Any]) -> list[dict[str, Any]]:
    total = sum(counts.values())
    published_total = sum(entry.published_count or 0 for entry in known.values())
    rows = []
    for key in [*known, *sorted(set(counts) - set(known))]:
        count = counts.get(key, 0)
        published = known[key].published_count if key in known else None
        rows.append(
            {
                "id": key,
                "count": count,
                "share": round(count / total, 4) if total else 0.0,
                "published_count": published,
                "published_share": round(published / published_total, 4) if published and published_total else None,
            }
        )
    return rows


def _write(out: Path, card: dict[str, Any], found: Statistics, sides: list[str]) -> None:
    try:
        plots = write_plots(out, card)
        write_json(out / "card.json", card)
        write_text(out / "README.md", render_card(card, hugging_face_header(out, sides, card), plots))
    except OSError as error:
        raise RunDirError(f"{out}: the card cannot be written: {error.strerror}; make room and start again") from error


def render_card(card: dict[str, Any], header: str, plots: list[str]) -> str:
    """README.md: the loader's header, then the card for people."""
    counts, teacher = card["counts"], card.get("teacher")
    parts = [header, "# Data card\n", f"**{card['notice']}**\n"]
    if teacher and teacher["model"] == "offline-teacher":
        parts.append(OFFLINE + "\n")
    parts.append(card["message"] + ".\n")
    parts.append("## Counts\n\n" + _rows(["", ""], [[k, _shown(v)] for k, v in counts.items()]))
    parts.append("## Measures\n\n" + _rows(["measure", "value"], [[k, _shown(v)] for k, v in card["measures"].items()]))
    for name in ("scenarios", "strategies"):
        rows = [
            [r["id"], r["count"], f"{r['share']:.1%}", _share(r["published_share"]), r["published_count"] or "-"]
            for r in card[name]
        ]
        rows.append(["sum", sum(r["count"] for r in card[name]), "", "", ""])
        heads = [name, "count", "share", "published share", "published count"]
        parts.append(f"## {name.capitalize()}\n\n" + _rows(heads, rows))
    if card.get("rounds"):
        heads = ["round", "candidates", "accepted", "acceptance", "novelty"]
        parts.append("## Rounds\n\n" + _rows(heads, [[r[h] for h in heads] for r in card["rounds"]]))
    for name in ("teacher", "settings"):
        if name in card:
            parts.append(
                f"## {name.capitalize()}\n\n" + _rows(["", ""], [[k, _shown(v)] for k, v in card[name].items()])
            )
    parts.append("## Limits\n\n" + "\n".join(f"- {limit}" for limit in card["limits"]) + "\n")
    parts += [f"![{name}]({name})\n" for name in plots]
    return "\n".join(parts)


def _rows(heads: list[str], rows: list[list[Any]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {_shown(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
