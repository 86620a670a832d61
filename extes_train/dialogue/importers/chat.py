"""What OpenAI messages and ShareGPT share: roles, and the column that keeps what a chat layout cannot say."""

from __future__ import annotations

import json
from typing import Any

from extes_train.dialogue.importers.reading import Summary, Utterance, merge_runs
from extes_train.dialogue.schema import SEEKER, SUPPORTER, Dialogue, dialogue_from_dict, make_dialogue
from extes_train.errors import DataError

EXTRA = "extes"  # the column, a JSON string: id, scenario, situation, provenance, turns without speaker and text
SYSTEM = "system"
ROLES = {
    "user": SEEKER, "human": SEEKER, "seeker": SEEKER, "usr": SEEKER, "prompter": SEEKER,
    "assistant": SUPPORTER, "gpt": SUPPORTER, "chatgpt": SUPPORTER, "bing": SUPPORTER, "bard": SUPPORTER,
    "model": SUPPORTER, "supporter": SUPPORTER, "sys": SUPPORTER,
    "system": SYSTEM, "developer": SYSTEM,
}  # fmt: skip


def dialogue_from_messages(
    record: dict[str, Any], messages: list[tuple[str, str]], source: str, where: str, summary: Summary
) -> Dialogue:
    """A dialogue from (speaker or "system", text) pairs; the column `extes` restores a dialogue that we exported."""
    system = [text for speaker, text in messages if speaker == SYSTEM]
    spoken = [(speaker, text) for speaker, text in messages if speaker != SYSTEM]
    if record.get(EXTRA) is not None:
        summary["restored from the column extes"] += 1
        return _restored(record[EXTRA], spoken, where)
    turns, _ = merge_runs([Utterance(speaker, text) for speaker, text in spoken], summary)
    provenance: dict[str, Any] = {"source": source}
    if system:
        summary["system prompts kept in provenance"] += 1
        provenance["system"] = "\n".join(system)
    if record.get("id") is not None:
        provenance["source_id"] = record["id"]
    return make_dialogue("", "", turns, provenance)


def _restored(extra: Any, spoken: list[tuple[str, str]], where: str) -> Dialogue:
    """The dialogue of the column, with the texts of the messages. Raises DataError where the two do not fit."""
    try:
        value = json.loads(extra) if isinstance(extra, str) else extra
        turns = value["turns"]
        assert isinstance(turns, list)
    except (ValueError, TypeError, KeyError, AssertionError) as error:
        raise DataError(f"{where}: {EXTRA}: is not what the exporter wrote; remove the column") from error
    if len(turns) != len(spoken):
        raise DataError(
            f"{where}: {EXTRA}: has {len(turns)} turns and the messages have {len(spoken)}; remove the column {EXTRA} "
            f"to import the edited messages"
        )
    value = {**value, "turns": [{**t, "speaker": s, "text": text} for t, (s, text) in zip(turns, spoken)]}
    try:
        return dialogue_from_dict(value, where)
    except DataError as error:
        raise DataError(f"{error} (the column {EXTRA}; remove it to import the edited messages)") from error


def role(value: Any, where: str, field: str) -> str:
    """seeker, supporter or system."""
    speaker = ROLES.get(str(value).strip().lower())
    if speaker is None:
        raise DataError(f"{where}: {field}: got {value!r}, allowed: {', '.join(ROLES)}")
    return speaker
