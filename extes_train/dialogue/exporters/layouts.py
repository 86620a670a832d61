"""One dialogue as the records of another trainer's layout."""

from __future__ import annotations

import json
from typing import Any

from extes_train.dialogue.schema import SEEKER, Dialogue, dialogue_to_dict


def messages_records(dialogue: Dialogue) -> list[dict[str, Any]]:
    """One record with OpenAI chat messages."""
    messages = [
        {"role": "user" if turn.speaker == SEEKER else "assistant", "content": turn.text} for turn in dialogue.turns
    ]
    return [{"messages": messages, "extes": _extra(dialogue)}]


def sharegpt_records(dialogue: Dialogue) -> list[dict[str, Any]]:
    """One record with ShareGPT conversations."""
    conversations = [
        {"from": "human" if turn.speaker == SEEKER else "gpt", "value": turn.text} for turn in dialogue.turns
    ]
    return [{"id": dialogue.id, "conversations": conversations, "extes": _extra(dialogue)}]


def alpaca_records(dialogue: Dialogue) -> list[dict[str, Any]]:
    """A record per response, original or alternative; `history` holds the earlier (seeker, supporter) pairs.

    An instruction is empty where the supporter speaks first.
    """
    records: list[dict[str, Any]] = []
    history: list[list[str]] = []
    said = ""
    for turn in dialogue.turns:
        if turn.speaker == SEEKER:
            said = turn.text
            continue
        for response in (turn.text, *(alternative.text for alternative in turn.alternatives)):
            records.append(
                {
                    "instruction": said,
                    "input": "",
                    "output": response,
                    "system": "",
                    "history": [list(p) for p in history],
                }
            )
        history.append([said, turn.text])
        said = ""
    return records


def _extra(dialogue: Dialogue) -> str:
    """The JSON text of everything but speakers and texts."""
    value = dialogue_to_dict(dialogue)
    for turn in value["turns"]:
        del turn["speaker"], turn["text"]
    return json.dumps(value, ensure_ascii=False)
