"""OpenAI chat messages: `{"messages": [{"role", "content"}]}`, JSON lines or a JSON list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from extes_train.dialogue.importers.chat import dialogue_from_messages, role
from extes_train.dialogue.importers.reading import Summary, import_records, string
from extes_train.dialogue.schema import Dialogue
from extes_train.errors import DataError


def import_file(path: Path) -> tuple[list[Dialogue], Summary]:
    """The conversations of a messages file (see `import_dialogues`)."""
    return import_records(path, _convert)


def _convert(record: dict[str, Any], where: str, summary: Summary) -> Dialogue:
    items = record.get("messages")
    if not isinstance(items, list):
        raise DataError(f"{where}: messages: expected a list of {{role, content}}")
    pairs = []
    for i, item in enumerate(items):
        field = f"messages[{i}]"
        if not isinstance(item, dict):
            raise DataError(f"{where}: {field}: expected an object with role and content")
        pairs.append((role(item.get("role"), where, f"{field}.role"), _content(item, where, f"{field}.content")))
    return dialogue_from_messages(record, pairs, "messages", where, summary)


def _content(item: dict[str, Any], where: str, field: str) -> str:
    """A string, or the text parts of a list of parts; other parts are refused."""
    content = item.get("content")
    if not isinstance(content, list):
        return string(content, where, field)
    texts = []
    for i, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") not in ("text", "input_text", "output_text"):
            raise DataError(f"{where}: {field}[{i}]: only parts of type text can be read")
        texts.append(string(part.get("text"), where, f"{field}[{i}].text"))
    return "\n".join(texts)
