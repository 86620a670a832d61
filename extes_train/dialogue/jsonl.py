"""dialogues.jsonl: one dialogue a line, UTF-8."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from extes_train.dialogue.files import sha256_of_file, write_text
from extes_train.dialogue.schema import Dialogue, dialogue_from_dict, dialogue_to_dict
from extes_train.dialogue.taxonomy import Taxonomy
from extes_train.errors import DataError


def iterate_lines(path: Path | str) -> Iterator[tuple[str, object]]:
    """Yield `(file:line, JSON value)` of every line that is not blank; a byte order mark is skipped.

    Raises DataError for a missing file, bytes that are no UTF-8 and lines that are no JSON.
    """
    path = Path(path)
    try:
        file = open(path, "rb")  # noqa: SIM115 (closed below)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (IsADirectoryError, PermissionError) as error:
        raise DataError(f"{path}: {error.strerror}") from error
    with file:
        for number, raw in enumerate(file, start=1):
            where = f"{path}:{number}"
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"{where}: byte {error.start} is no UTF-8; save the file as UTF-8") from error
            if not line.strip():
                continue
            try:
                yield where, json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{where}: no JSON: {error.msg} at column {error.colno}{_hint(line)}") from error
            except RecursionError:
                raise DataError(f"{where}: no dialogue: nested too deeply") from None


def _hint(line: str) -> str:
    if line.lstrip().startswith("["):
        return "; a JSON list is no JSON Lines file: `extes import` reads the published layouts"
    return ""


def iterate_dialogues(
    path: Path | str, taxonomy: Taxonomy | None = None, quarantined: bool = False
) -> Iterator[Dialogue]:
    """Yield the dialogues of a dialogues.jsonl, checked (see `dialogue_from_dict`). A repeated id is an error."""
    seen: dict[str, str] = {}
    for where, value in iterate_lines(path):
        dialogue = dialogue_from_dict(value, where, taxonomy, quarantined)
        first = seen.setdefault(dialogue.id, where)
        if first != where:
            raise DataError(f'{where}: id: "{dialogue.id}" is already at {first}; remove one of the two')
        yield dialogue


def read_dialogues(path: Path | str, taxonomy: Taxonomy | None = None) -> list[Dialogue]:
    """All dialogues of a dialogues.jsonl. Raises DataError at the first fault, and for a file without a dialogue."""
    dialogues = list(iterate_dialogues(path, taxonomy))
    if not dialogues:
        raise DataError(f"{path}: holds no dialogue")
    return dialogues


def dialogue_line(dialogue: Dialogue) -> str:
    """The line of `dialogue`, newline included."""
    return json.dumps(dialogue_to_dict(dialogue), ensure_ascii=False) + "\n"


def write_dialogues(path: Path | str, dialogues: Iterable[Dialogue]) -> None:
    """Write a dialogues.jsonl, atomically."""
    write_text(path, "".join(dialogue_line(dialogue) for dialogue in dialogues))


def data_digest(path: Path | str) -> str:
    """SHA-256 of the file's bytes, in hex."""
    try:
        return sha256_of_file(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
