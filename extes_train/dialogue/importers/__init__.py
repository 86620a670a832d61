"""Reading other layouts: `import_dialogues(format, path)`.

esconv     ESConv, both public layouts (thu-coai's ESConv.json, and JSON lines with usr/sys)
extes      ExTES.json as published, its defects mended and counted
messages   OpenAI chat messages, JSON lines or a JSON list
sharegpt   ShareGPT conversations, JSON lines or a JSON list
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from extes_train.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from extes_train.dialogue.importers.reading import Summary
    from extes_train.dialogue.schema import Dialogue

FORMATS = ("esconv", "extes", "messages", "sharegpt")


def import_dialogues(format: str, path: Path | str) -> tuple[list[Dialogue], Summary]:
    """Dialogues of the file `path` in layout `format`, and a Counter of everything that was read, mended or refused.

    Raises DataError for an unknown format, a file that is no JSON, and a file of which no dialogue could be read.
    """
    if format not in FORMATS:
        raise DataError(f'import format "{format}": allowed: {", ".join(FORMATS)}{did_you_mean(format, FORMATS)}')
    read: Callable[[Path], tuple[list[Dialogue], Summary]]
    read = import_module(f"extes_train.dialogue.importers.{format}").import_file
    dialogues, summary = read(Path(path))
    if not dialogues:
        refused = [name for name in summary if name.startswith("refused")]
        reasons = "".join(f"\n  {name}" for name in refused[:3])
        if len(refused) > 3:
            reasons += f"\n  … ({len(refused) - 3} more)"
        raise DataError(f"{path}: no dialogue of format {format} in it (formats: {', '.join(FORMATS)}){reasons}")
    return dialogues, summary
