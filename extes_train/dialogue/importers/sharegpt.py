"""ShareGPT conversations: `{"conversations": [{"from", "value"}], "system"?}`, JSON lines or a JSON list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from extes_train.dialogue.importers.chat import SYSTEM, dialogue_from_messages, role
from extes_train.dialogue.importers.reading import Summary, import_records, string
from extes_train.dialogue.schema import Dialogue
from extes_train.errors import DataError


def import_file(path: Path) -> tuple[list[Dialogue], Summary]:
    """The conversations of a ShareGPT file (see `import_dialogues`)."""
    return import_records(path, _convert)


def _convert(record: dict[str, Any], where: str, summary: Summary) -> Dialogue:
    items = record.get("conversations", record.get("items"))
    if not isinstance(items, list):
        raise DataError(f"{where}: conversations: expected a list of {{from, value}}")
    pairs = [(SYSTEM, record["system"])] if isinstance(record.get("system"), str) and record["system"] else []
    for i, item in enumerate(items):
        field = f"conversations[{i}]"
        if not isinstance(item, dict):
            raise DataError(f"{where}: {field}: expected an object with from and value")
        speaker = role(item.get("from"), where, f"{field}.from")
        pairs.append((speaker, string(item.get("value"), where, f"{field}.value")))
    return dialogue_from_messages(record, pairs, "sharegpt", where, summary)
