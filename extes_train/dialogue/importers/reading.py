"""What every importer does: records of a JSON list or of JSON lines, runs of one speaker joined, a summary kept."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extes_train.dialogue.jsonl import iterate_lines
from extes_train.dialogue.schema import SUPPORTER, Dialogue, Turn, check_dialogue
from extes_train.errors import DataError


class Summary(Counter[str]):
    """Counts by name. A record that cannot be mended has an entry of its own: `refused: WHERE: why`."""

    @property
    def refused(self) -> list[str]:
        """The records left out, each with the reason."""
        return [name.removeprefix("refused: ") for name in self if name.startswith("refused: ")]


@dataclass(slots=True)
class Utterance:
    """What one speaker said in one go; successive ones of a speaker become one turn."""

    speaker: str
    text: str
    strategy: str | None = None


def iterate_records(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield `(where, value)` of each record: `file:line` of JSON lines, `file: record i` of a JSON list."""
    try:
        with open(path, "rb") as file:
            start = file.read(4096).decode("utf-8-sig", errors="replace").lstrip()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder; name the file in it") from None
    if not start.startswith("["):
        yield from iterate_lines(path)
        return
    try:
        records = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: no JSON: {error.msg} at column {error.colno}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is no UTF-8; save the file as UTF-8") from error
    for i, record in enumerate(records):
        yield f"{path}: record {i}", record


def import_records(path: Path, convert: Callable[[Any, str, Summary], Dialogue]) -> tuple[list[Dialogue], Summary]:
    """Convert every record of `path`; a record whose conversion raises DataError is refused by name.

    The second of two identical dialogues is left out and counted: ids are unique in a dialogues.jsonl.
    """
    summary = Summary()
    dialogues: dict[str, Dialogue] = {}
    for where, record in iterate_records(path):
        summary["records"] += 1
        own = Summary()
        try:
            if not isinstance(record, dict):
                raise DataError(f"{where}: expected an object, got {type(record).__name__}")
            dialogue = convert(record, where, own)
            check_dialogue(dialogue, where)
        except DataError as error:
            summary[f"refused: {error}"] += 1
            continue
        summary.update(+own)
        if dialogue.id in dialogues:
            summary["identical dialogues left out"] += 1
            continue
        dialogues[dialogue.id] = dialogue
        if dialogue.turns[0].speaker == SUPPORTER:
            summary["supporter speaks first"] += 1
    return list(dialogues.values()), summary


def merge_runs(utterances: list[Utterance], summary: Summary) -> tuple[list[Turn], dict[str, Any]]:
    """Turns with runs of one speaker joined by a space, and provenance for what joining would lose.

    A joined supporter turn has the strategy of its longest part; where its parts differ, provenance has all of them.
    Empty utterances are left out and counted.
    """
    runs: list[list[Utterance]] = []
    for utterance in utterances:
        text = utterance.text.strip()
        if not text:
            summary["empty utterances left out"] += 1
            continue
        if runs and runs[-1][0].speaker == utterance.speaker:
            summary["utterances joined to the same speaker's"] += 1
            runs[-1].append(Utterance(utterance.speaker, text, utterance.strategy))
        else:
            runs.append([Utterance(utterance.speaker, text, utterance.strategy)])
    turns, joined = [], {}
    for i, run in enumerate(runs):
        labelled = [part for part in run if part.strategy is not None]
        strategy = max(labelled, key=lambda part: len(part.text)).strategy if labelled else None
        if len({part.strategy for part in run}) > 1:
            joined[str(i)] = [part.strategy for part in run]
        turns.append(Turn(run[0].speaker, " ".join(part.text for part in run), strategy))
    return turns, {"joined_strategies": joined} if joined else {}


def string(value: Any, where: str, field: str) -> str:
    """`value` if it is a string."""
    if not isinstance(value, str):
        raise DataError(f"{where}: {field}: got {json.dumps(value, ensure_ascii=False)[:60]}, expected a string")
    return value
