"""Writing the folder of a run: records streamed from the journal, each file whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from extes_train.dialogue.files import sync_directory
from extes_train.errors import RunDirError


def write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> int:
    """Write one JSON object a line through a temporary neighbour and rename it; returns how many.

    The neighbour's name is fixed, so that what a killed process left is overwritten by the next one.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    count = 0
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            for record in records:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if not path.parent.is_dir():
            raise RunDirError(
                f"{path.parent}: the folder was removed while the run wrote to it; start again"
            ) from error
        raise RunDirError(
            f"{path}: cannot be written: {error.strerror}; the journal has everything: make room and start again"
        ) from error
    return count
