"""The label audit: tokenise as the run will, and say what it learns from. Runs in a child, cached.

`audit(request)` in the launcher starts `python -m launch.audit OUT OVERRIDES` unless the same data, configuration
and code were audited before. The child also fills the token cache that the run will read.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from extes_train.composition import plain
from extes_train.config import TrainConfig
from extes_train.dialogue.files import digest_of, locked, read_json, sha256_of_file, write_json
from extes_train.environment import cache_directory
from extes_train.errors import ExtesError, UserError
from launch.composing import Request
from launch.environment import worker_environment

AUDIT_FORMAT = 1
AUDIT_TIMEOUT_S = 3600.0
SAMPLE_LINES = 8


@dataclasses.dataclass(frozen=True)
class Audit:
    """What the child found. Tokens and targets are of one pass over the training side."""

    error: str | None
    dialogues: int = 0
    heldout_dialogues: int = 0
    windows: int = 0
    tokens: int = 0
    targets: int = 0
    steps: int | None = None  # of the run; None where a budget of targets or seconds ends it
    row_tokens: int = 0  # the longest row
    row_targets: int = 0
    notes: tuple[str, ...] = ()  # everything that was skipped or cut, counted
    sample: str = ""


def audit(request: Request) -> Audit:
    """The audit of `request`, from the cache where nothing that matters has changed."""
    path = cache_directory() / "preflight" / f"{audit_key(request)}.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "launch.audit", str(path), *request.overrides]
        done = subprocess.run(
            command, env=worker_environment({}, 1, None), capture_output=True, text=True, timeout=AUDIT_TIMEOUT_S
        )
        if not path.is_file():
            return Audit(error=(done.stderr.strip() or f"the audit ended with code {done.returncode}"))
    found = Audit(**read_json(path))
    if found.error is not None:
        path.unlink()  # what is wrong will be mended
    return dataclasses.replace(found, notes=tuple(found.notes))


def audit_key(request: Request) -> str:
    """Digest of what the audit depends on: configuration, the bytes of the data, the tokenizer's files."""
    config = request.config
    data, model = config.data, config.model
    paths = [data.train, data.valid, data.test, config.augmentation.train, model.chat_template]
    folder = model.tokenizer or model.path
    if folder and Path(folder).is_dir():
        paths += sorted(str(path) for path in Path(folder).glob("*.json"))
    files = {str(path): file_digest(Path(path)) for path in paths if path and Path(path).is_file()}
    return digest_of([AUDIT_FORMAT, _sections(config), files], 24)


def _sections(config: TrainConfig) -> dict[str, Any]:
    """What tokens, windows and steps depend on: arms that differ in tuning share an audit."""
    model, optim = config.model, config.optim
    return {
        "data": plain(config.data), "tokens": plain(config.tokens), "augmentation": plain(config.augmentation),
        "model": [model.path, model.tokenizer, model.chat_template, model.context_length, model.revision],
        "optim": [optim.epochs, optim.max_steps, optim.max_targets, optim.max_seconds, optim.dialogues_per_step],
    }  # fmt: skip


def file_digest(path: Path) -> str:
    """SHA-256 of a file, remembered by its path, size and time of change."""
    memory = cache_directory() / "preflight" / "files.json"
    stat = path.stat()
    name = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    with locked(memory.with_suffix(".lock")):
        known: dict[str, str] = read_json(memory) if memory.is_file() else {}
        if name not in known:
            known[name] = sha256_of_file(path)
            write_json(memory, dict(list(known.items())[-500:]))
    return known[name]


def run_audit(config: TrainConfig) -> Audit:
    """In the child: what the worker does before it joins the others."""
    from extes_train.tokens.show import render_sample
    from extes_train.training.assembly import load_run_data

    data = load_run_data(config)
    rows = _longest_rows(data.train)
    return Audit(
        error=None,
        dialogues=len(data.sides.train),
        heldout_dialogues=len(data.sides.valid),
        windows=len(data.train),
        tokens=sum(len(tree) for item in range(len(data.train)) for tree in data.train.trees(item)),
        targets=sum(data.train.num_targets(item) for item in range(len(data.train))),
        steps=data.plan.total_steps,
        row_tokens=max(tokens for tokens, _ in rows),
        row_targets=max(targets for _, targets in rows),
        notes=tuple(data.train.describe()),
        sample="\n".join(render_sample(data.train, 0, color=False).splitlines()[:SAMPLE_LINES]),
    )


def _longest_rows(dataset: Any) -> list[tuple[int, int]]:
    """(tokens, targets) of the rows that the longest windows fill."""
    order = sorted(range(len(dataset)), key=lambda item: -dataset.flat_tokens(item))
    chosen, total = [], 0
    for item in order:
        chosen.append(item)
        total += sum(len(tree) for tree in dataset.trees(item))
        if total >= dataset.tokens_per_row:
            break
    return [(len(row.ids_T), row.num_targets) for row in dataset.rows(chosen)]


def main(arguments: Sequence[str]) -> int:
    """`python -m launch.audit OUT OVERRIDES`."""
    from extes_train.composition import compose

    out, *overrides = arguments
    try:
        found = run_audit(compose(overrides))
    except UserError as error:
        found = Audit(error=str(error))
    except ExtesError as error:
        found = Audit(error=f"{type(error).__name__}: {error}")
    write_json(out, json.loads(json.dumps(dataclasses.asdict(found))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
