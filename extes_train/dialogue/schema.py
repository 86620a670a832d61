"""The dialogue: what one line of dialogues.jsonl holds, its id, and the check of every field.

    id = first 16 hex digits of SHA-256 over the canonical JSON of
         {"scenario", "situation", "turns": [{"speaker", "strategy" (null where there is none), "text"}]}, NFC

Alternatives, tags and provenance are outside the id, so inpainting keeps it.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass, field
from json.encoder import encode_basestring
from typing import Any

from extes_train.dialogue.taxonomy import Taxonomy, shelf_hint
from extes_train.errors import DataError, did_you_mean

SCHEMA = 1
SEEKER, SUPPORTER = "seeker", "supporter"
SPEAKERS = (SEEKER, SUPPORTER)
SIDES = ("train", "valid", "test", "base")

_DIALOGUE_KEYS = ("schema", "id", "scenario", "situation", "turns", "provenance")
_TURN_KEYS = ("speaker", "text", "strategy", "alternatives", "tags")
_ALTERNATIVE_KEYS = ("text", "strategy", "provenance")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(slots=True)
class Alternative:
    """Another response for a supporter turn."""

    text: str
    strategy: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Turn:
    """One utterance. Strategy and alternatives belong to supporter turns, tags to seeker turns."""

    speaker: str
    text: str
    strategy: str | None = None
    alternatives: list[Alternative] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Dialogue:
    """One conversation between a seeker and a supporter."""

    id: str
    scenario: str
    situation: str
    turns: list[Turn]
    provenance: dict[str, Any] = field(default_factory=dict)


def dialogue_id(scenario: str, situation: str, turns: list[Turn]) -> str:
    """The id of a dialogue with this content: 16 hex digits (formula at the top of the file)."""
    shown = [
        f'{{"speaker":{_quoted(turn.speaker)},"strategy":{_quoted(turn.strategy)},"text":{_quoted(turn.text)}}}'
        for turn in turns
    ]  # the canonical JSON (files.canonical_json), written by hand: this runs for every reply of a teacher
    content = f'{{"scenario":{_quoted(scenario)},"situation":{_quoted(situation)},"turns":[{",".join(shown)}]}}'
    return hashlib.sha256(content.encode("utf-8")).hexdigest()[:16]


def _quoted(text: str | None) -> str:
    """NFC of `text` as a JSON string; null for None."""
    return "null" if text is None else encode_basestring(unicodedata.normalize("NFC", text))


def make_dialogue(
    scenario: str, situation: str, turns: list[Turn], provenance: dict[str, Any] | None = None
) -> Dialogue:
    """A dialogue with its id computed. Nothing is checked: see `check_dialogue`."""
    return Dialogue(dialogue_id(scenario, situation, turns), scenario, situation, turns, dict(provenance or {}))


def dialogue_to_dict(dialogue: Dialogue) -> dict[str, Any]:
    """The JSON object of a line, keys in the contract's order; absent strategies, alternatives and tags left out."""
    return {
        "schema": SCHEMA,
        "id": dialogue.id,
        "scenario": dialogue.scenario,
        "situation": dialogue.situation,
        "turns": [_turn_to_dict(turn) for turn in dialogue.turns],
        "provenance": dialogue.provenance,
    }


def _turn_to_dict(turn: Turn) -> dict[str, Any]:
    value: dict[str, Any] = {"speaker": turn.speaker, "text": turn.text}
    if turn.strategy is not None:
        value["strategy"] = turn.strategy
    if turn.alternatives:
        value["alternatives"] = [_alternative_to_dict(alternative) for alternative in turn.alternatives]
    if turn.tags:
        value["tags"] = list(turn.tags)
    return value


def _alternative_to_dict(alternative: Alternative) -> dict[str, Any]:
    value: dict[str, Any] = {"text": alternative.text}
    if alternative.strategy is not None:
        value["strategy"] = alternative.strategy
    if alternative.provenance:
        value["provenance"] = alternative.provenance
    return value


def dialogue_from_dict(
    value: Any, where: str = "dialogue", taxonomy: Taxonomy | None = None, quarantined: bool = False
) -> Dialogue:
    """Read and check one JSON object.

    Raises DataError that starts with `where` and names the field (`turns[3].strategy`), its value and what is allowed.
    Without a `taxonomy` any scenario and strategy passes. `quarantined` records carry a `reason`, others may not.
    """
    if isinstance(value, dict) and value and not {"schema", "turns"} & set(value):
        keys = ", ".join(sorted(map(str, value))[:6])
        raise DataError(f"{where}: no dialogue of ours (its keys: {keys}); `extes import` reads other layouts")
    _object(value, where, "", (*_DIALOGUE_KEYS, "reason") if quarantined else _DIALOGUE_KEYS)
    if value.get("schema") != SCHEMA or isinstance(value.get("schema"), bool):
        raise DataError(f"{where}: schema: got {_shown(value.get('schema'))}, this version reads {SCHEMA}")
    dialogue = Dialogue(
        id=_text(value, "id", where, ""),
        scenario=_text(value, "scenario", where, "", empty=True),
        situation=_text(value, "situation", where, "", empty=True),
        turns=[_turn(item, where, f"turns[{i}]") for i, item in enumerate(_list(value, "turns", where, "", True))],
        provenance=_provenance(value, where, ""),
    )
    check_dialogue(dialogue, where, taxonomy)
    expected = dialogue_id(dialogue.scenario, dialogue.situation, dialogue.turns)
    if dialogue.id != expected:
        raise DataError(
            f'{where}: id: got "{dialogue.id}", but this content has the id "{expected}"; the file was edited after '
            f"the id was computed. Write the new id, or let make_dialogue (extes_train.dialogue.schema) compute it"
        )
    return dialogue


def check_dialogue(dialogue: Dialogue, where: str, taxonomy: Taxonomy | None = None) -> None:
    """Check the rules between fields, and scenario and strategies against `taxonomy`. Raises DataError."""
    if not dialogue.turns:
        raise DataError(f"{where}: turns: empty; a dialogue has at least one supporter turn")
    if taxonomy is not None:
        _known(dialogue.scenario, taxonomy.scenarios, taxonomy.open_scenarios, where, "scenario", taxonomy)
    previous = None
    for i, turn in enumerate(dialogue.turns):
        path = f"turns[{i}]"
        if turn.speaker not in SPEAKERS:
            hint = did_you_mean(str(turn.speaker), SPEAKERS)
            raise DataError(f"{where}: {path}.speaker: got {_shown(turn.speaker)}, allowed: seeker, supporter{hint}")
        if turn.speaker == previous:
            raise DataError(
                f"{where}: {path}.speaker: {turn.speaker} follows {turn.speaker}; speakers alternate: "
                f"join the texts of a run by one speaker (`extes import` does)"
            )
        previous = turn.speaker
        _check_turn(turn, where, path, taxonomy)
    if all(turn.speaker == SEEKER for turn in dialogue.turns):
        raise DataError(f"{where}: turns: no supporter turn among {len(dialogue.turns)}; there is nothing to learn")


def _check_turn(turn: Turn, where: str, path: str, taxonomy: Taxonomy | None) -> None:
    if turn.speaker == SEEKER:
        for name in ("strategy", "alternatives"):
            if getattr(turn, name):
                raise DataError(f"{where}: {path}.{name}: a seeker turn has none; only supporter turns do")
        return
    if turn.tags:
        raise DataError(f"{where}: {path}.tags: a supporter turn has none; only seeker turns do")
    if taxonomy is not None:
        labelled = [(turn.strategy, f"{path}.strategy")]
        labelled += [(a.strategy, f"{path}.alternatives[{i}].strategy") for i, a in enumerate(turn.alternatives)]
        for strategy, field_path in labelled:
            if strategy is not None:
                _known(strategy, taxonomy.strategies, taxonomy.open_strategies, where, field_path, taxonomy)


def _turn(value: Any, where: str, path: str) -> Turn:
    _object(value, where, path, _TURN_KEYS)
    return Turn(
        speaker=_text(value, "speaker", where, path),
        text=_text(value, "text", where, path),
        strategy=_optional_text(value, "strategy", where, path),
        alternatives=[
            _alternative(item, where, f"{path}.alternatives[{i}]")
            for i, item in enumerate(_list(value, "alternatives", where, path))
        ],
        tags=_texts(value, "tags", where, path),
    )


def _alternative(value: Any, where: str, path: str) -> Alternative:
    _object(value, where, path, _ALTERNATIVE_KEYS)
    return Alternative(
        text=_text(value, "text", where, path),
        strategy=_optional_text(value, "strategy", where, path),
        provenance=_provenance(value, where, path),
    )


def _object(value: Any, where: str, path: str, keys: tuple[str, ...]) -> None:
    at = f"{path}: " if path else ""
    if not isinstance(value, dict):
        raise DataError(f"{where}: {at}got {_shown(value)}, expected an object with the keys {', '.join(keys)}")
    for key in value:
        if key not in keys:
            if key == "reason" and not path:
                raise DataError(f"{where}: reason: this is a quarantined record ({_shown(value[key])}), not data")
            raise DataError(
                f"{where}: {_join(path, key)}: no such key{did_you_mean(key, keys)}; keys: {', '.join(keys)}"
            )


def _text(value: dict[str, Any], key: str, where: str, path: str, empty: bool = False) -> str:
    text = value.get(key)
    if key not in value:
        raise DataError(f"{where}: {_join(path, key)}: missing")
    if not isinstance(text, str):
        raise DataError(f"{where}: {_join(path, key)}: got {_shown(text)}, expected a string")
    if not empty and not text.strip():
        raise DataError(f"{where}: {_join(path, key)}: got {_shown(text)}, expected some text")
    if _SURROGATE.search(text):
        raise DataError(f"{where}: {_join(path, key)}: holds half of a surrogate pair and cannot be written as UTF-8")
    return text


def _optional_text(value: dict[str, Any], key: str, where: str, path: str) -> str | None:
    return None if value.get(key) is None else _text(value, key, where, path)


def _list(value: dict[str, Any], key: str, where: str, path: str, required: bool = False) -> list[Any]:
    if key not in value:
        if required:
            raise DataError(f"{where}: {_join(path, key)}: missing")
        return []
    if not isinstance(value[key], list):
        raise DataError(f"{where}: {_join(path, key)}: got {_shown(value[key])}, expected a list")
    return value[key]


def _texts(value: dict[str, Any], key: str, where: str, path: str) -> list[str]:
    items = _list(value, key, where, path)
    for i, item in enumerate(items):
        if not isinstance(item, str):
            raise DataError(f"{where}: {_join(path, key)}[{i}]: got {_shown(item)}, expected a string")
    return items


def _provenance(value: dict[str, Any], where: str, path: str) -> dict[str, Any]:
    """Any object; the fields that splitting and leak checks rely on have their types."""
    provenance = value.get("provenance", {})
    at = _join(path, "provenance")
    if not isinstance(provenance, dict):
        raise DataError(f"{where}: {at}: got {_shown(provenance)}, expected an object")
    _texts(provenance, "exemplars", where, at)
    side = provenance.get("side")
    if side is not None and side not in SIDES:
        raise DataError(
            f"{where}: {at}.side: got {_shown(side)}, allowed: {', '.join(SIDES)}{did_you_mean(str(side), SIDES)}"
        )
    return provenance


def _known(value: str, known: dict[str, Any], is_open: bool, where: str, path: str, taxonomy: Taxonomy) -> None:
    if is_open or value in known:
        return
    if elsewhere := shelf_hint(value, taxonomy):
        raise DataError(f'{where}: {path}: "{value}" is not in taxonomy {taxonomy.name}{elsewhere}')
    hint, allowed = did_you_mean(value, list(known)), ", ".join(known)
    raise DataError(f'{where}: {path}: got "{value}"{hint}; allowed in taxonomy {taxonomy.name}: {allowed}')


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _shown(value: Any, width: int = 60) -> str:
    import json

    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= width else text[: width - 1] + "…"
