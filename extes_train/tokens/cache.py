"""Windows on disk: tokenised once, found again by a key over everything that they depend on.

One .npz file a key, written whole and renamed, under a lock that other processes wait for. No pickles.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from extes_train.dialogue.files import locked
from extes_train.tokens.windows import Response, Window

Built = tuple[list[Window], dict[str, Any]]


def cached_windows(directory: Path, key: str, build: Callable[[], Built]) -> tuple[Built, bool]:
    """(windows and report of `key`, whether the cache had them); built and kept where it does not.

    A file that cannot be read is built again; a directory that cannot be written costs the cache only.
    """
    path = directory / f"{key}.npz"
    if (found := _read_or_none(path)) is not None:
        return found, True
    try:
        with locked(directory / f"{key}.lock"):
            if (found := _read_or_none(path)) is not None:
                return found, True
            built = build()
            write_windows(path, *built)
            return built, False
    except OSError:
        return build(), False


def _read_or_none(path: Path) -> Built | None:
    try:
        return read_windows(path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, json.JSONDecodeError):
        return None


def write_windows(path: Path, windows: Sequence[Window], report: dict[str, Any]) -> None:
    """Write windows and report to `path`, atomically."""
    responses = [(i, r) for i, window in enumerate(windows) for r in window.responses]
    branches = [r.ids for _, r in responses if r.alternative >= 0]
    arrays = {
        "windows": np.array([(w.dialogue, w.first_turn, w.stop_turn, len(w.trunk)) for w in windows], np.int64),
        "responses": np.array(
            [(i, r.turn, r.alternative, r.attach, len(r.ids), r.num_end, r.num_bytes) for i, r in responses], np.int64
        ),
        "trunks": np.concatenate([np.zeros(0, np.int32), *(w.trunk for w in windows)]),
        "branches": np.concatenate([np.zeros(0, np.int32), *branches]),
        "report": np.frombuffer(json.dumps(report).encode(), dtype=np.uint8),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_windows(path: Path) -> Built:
    """What `write_windows` wrote."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in ("windows", "responses", "trunks", "branches", "report")}
    windows, start = [], 0
    for dialogue, first_turn, stop_turn, length in arrays["windows"].reshape(-1, 4).tolist():
        windows.append(Window(dialogue, first_turn, stop_turn, arrays["trunks"][start : start + length], []))
        start += length
    branch = 0
    for item, turn, alternative, attach, length, num_end, num_bytes in arrays["responses"].reshape(-1, 7).tolist():
        window = windows[item]
        if alternative < 0:
            ids = window.trunk[attach : attach + length]
        else:
            ids, branch = arrays["branches"][branch : branch + length], branch + length
        window.responses.append(Response(turn, alternative, attach, ids, num_end, num_bytes))
    return windows, json.loads(arrays["report"].tobytes())
