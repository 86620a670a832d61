"""ESConv (Liu et al., ACL 2021) in its two public layouts, as a JSON list or JSON lines.

    {"problem_type", "situation", "dialog": [{"speaker": "seeker|supporter", "annotation": {"strategy"}, "content"}], …}
    {"problem_type", "situation", "dialog": [{"speaker": "usr|sys", "strategy", "text"}], …}

Scenario: the slug of problem_type. Everything else that a record holds goes to provenance as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from extes_train.dialogue.importers.reading import Summary, Utterance, import_records, merge_runs, string
from extes_train.dialogue.schema import SEEKER, SUPPORTER, Dialogue, make_dialogue
from extes_train.dialogue.taxonomy import load_taxonomy, slug
from extes_train.errors import DataError, did_you_mean

_SPEAKERS = {"usr": SEEKER, "seeker": SEEKER, "sys": SUPPORTER, "supporter": SUPPORTER}
_READ = ("problem_type", "situation", "dialog")


def import_file(path: Path) -> tuple[list[Dialogue], Summary]:
    """The conversations of an ESConv file (see `import_dialogues`)."""
    return import_records(path, _convert)


def _convert(record: dict[str, Any], where: str, summary: Summary) -> Dialogue:
    items = record.get("dialog")
    if not isinstance(items, list):
        raise DataError(f"{where}: dialog: expected a list of utterances; is this an ESConv file?")
    utterances = [_utterance(item, where, f"dialog[{i}]") for i, item in enumerate(items)]
    summary["utterances"] += len(utterances)
    turns, joined = merge_runs(utterances, summary)
    feedback = {str(i): item["annotation"]["feedback"] for i, item in enumerate(items) if _has_feedback(item)}
    provenance: dict[str, Any] = {
        "source": "esconv",
        **joined,
        **{key: value for key, value in record.items() if key not in _READ},
    }
    if feedback:
        provenance["feedback"] = feedback
    scenario = slug(string(record.get("problem_type", ""), where, "problem_type"))
    situation = string(record.get("situation", ""), where, "situation").strip()
    return make_dialogue(scenario, situation, turns, provenance)


def _utterance(item: Any, where: str, field: str) -> Utterance:
    if not isinstance(item, dict):
        raise DataError(f"{where}: {field}: expected an object")
    speaker = _SPEAKERS.get(str(item.get("speaker")))
    if speaker is None:
        allowed = ", ".join(_SPEAKERS)
        raise DataError(f"{where}: {field}.speaker: got {item.get('speaker')!r}, allowed: {allowed}")
    annotation = item.get("annotation") or {}
    label = item.get("strategy", annotation.get("strategy") if isinstance(annotation, dict) else None)
    text = string(item.get("text", item.get("content")), where, f"{field}.text")
    return Utterance(speaker, text, _strategy(label, where, field) if speaker == SUPPORTER else None)


def _strategy(label: Any, where: str, field: str) -> str | None:
    if label in (None, ""):
        return None
    known = load_taxonomy("esconv").strategies
    identifier = slug(str(label))
    if identifier not in known:
        titles = [strategy.title for strategy in known.values()]
        hint = did_you_mean(str(label), titles)
        raise DataError(f'{where}: {field}.strategy: got "{label}"{hint}; allowed: {", ".join(titles)}')
    return identifier


def _has_feedback(item: dict[str, Any]) -> bool:
    return isinstance(item.get("annotation"), dict) and "feedback" in item["annotation"]
