"""Writing other layouts, as JSON lines: `export_dialogues(format, dialogues, out)`.

messages   {"messages": [{"role", "content"}], "extes": "…"}         TRL, OpenAI, axolotl
sharegpt   {"conversations": [{"from", "value"}], "extes": "…"}      LLaMA-Factory, axolotl
alpaca     {"instruction", "input", "output", "system", "history"}   one record per response, alternatives included

The column `extes` is a JSON string with what a chat layout cannot say (strategies, alternatives, provenance); the
importers restore the dialogue from it. Other trainers ignore it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extes_train.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from extes_train.dialogue.schema import Dialogue


def export_dialogues(format: str, dialogues: Iterable[Dialogue], out: Path | str) -> Counter[str]:
    """Write `dialogues` to `out` in layout `format`, atomically. Returns the counts of dialogues and records."""
    from extes_train.dialogue.exporters.layouts import alpaca_records, messages_records, sharegpt_records
    from extes_train.dialogue.files import write_text

    layouts: dict[str, Callable[[Dialogue], list[dict[str, Any]]]] = {
        "messages": messages_records,
        "sharegpt": sharegpt_records,
        "alpaca": alpaca_records,
    }
    if format not in layouts:
        allowed = list(layouts)
        raise DataError(f'export format "{format}": allowed: {", ".join(allowed)}{did_you_mean(format, allowed)}')
    counts: Counter[str] = Counter()
    lines = []
    for dialogue in dialogues:
        records = layouts[format](dialogue)
        counts["dialogues"] += 1
        counts["records"] += len(records)
        lines += [json.dumps(record, ensure_ascii=False) for record in records]
    write_text(out, "".join(line + "\n" for line in lines))
    return counts
