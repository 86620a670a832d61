"""The run directory: made atomically, kept to one configuration, and the names of everything in it.

A directory is a run once it holds config.yaml, which is written last. The same directory with the same digest
resumes; with another one it is refused, and the differing keys are named.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from extes_train.composition import plain, to_yaml
from extes_train.config import FREE_KEYS, FREE_SECTIONS, TrainConfig, config_digest
from extes_train.dialogue.files import read_json, sync_directory, write_json, write_text
from extes_train.errors import RunDirError

VERSIONS = ("torch", "deepspeed", "transformers", "peft", "tokenizers", "hydra-core", "wandb", "numpy")


class RunDir:
    """The paths of a run."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.overrides = self.path / "overrides.txt"
        self.provenance = self.path / "provenance.json"
        self.metrics = self.path / "metrics.jsonl"
        self.heldout = self.path / "heldout.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model"
        self.cost = self.path / "cost.json"
        self.requeue = self.path / "requeue"
        self.wandb_id = self.path / "wandb_id"


def open_run_dir(
    config: TrainConfig, overrides: Sequence[str], data_digests: Mapping[str, str], command: Sequence[str]
) -> RunDir:
    """Create the run directory of `config`, or check that the one that exists is its own. Rank 0 only.

    `data_digests` are digests of the data files by config key. Raises RunDirError where the directory holds another
    configuration or other data, or cannot be written.
    """
    run = RunDir(config.run_dir)
    if run.config.is_file():
        _check_same(run, config, data_digests)
        run.requeue.unlink(missing_ok=True)
        return run
    if run.metrics.exists() or run.checkpoints.exists() or run.model.exists():
        raise RunDirError(
            f"run_dir={run.path}: holds metrics, checkpoints or a model but no config.yaml; choose another directory"
        )
    try:
        _create(run, config, overrides, data_digests, command)
    except OSError as error:
        raise RunDirError(f"run_dir={run.path}: cannot be written: {error}") from error
    return run


def _create(
    run: RunDir, config: TrainConfig, overrides: Sequence[str], data_digests: Mapping[str, str], command: Sequence[str]
) -> None:
    """Fill a neighbour and rename it; a launcher's directory that is there already is filled, config.yaml last."""
    target = run.path
    fresh = not target.exists()
    if fresh:
        target.parent.mkdir(parents=True, exist_ok=True)
        target = run.path.with_name(f".{run.path.name}.{os.getpid()}.tmp")
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
    elif not target.is_dir():
        raise NotADirectoryError(f"{target} is a file")
    filled = RunDir(target)
    write_text(filled.overrides, "".join(f"{override}\n" for override in overrides))
    write_json(filled.provenance, provenance(config, data_digests, command))
    write_text(filled.config, to_yaml(config))
    if fresh:
        os.replace(target, run.path)
        sync_directory(run.path.parent)


def provenance(config: TrainConfig, data_digests: Mapping[str, str], command: Sequence[str]) -> dict[str, Any]:
    """Where a run comes from: digests, versions, commit, command, machine, time."""
    return {
        "config_digest": config_digest(config),
        "data": dict(data_digests),
        "versions": {"extes": _version("extes"), "python": sys.version.split()[0]}
        | {name: _version(name) for name in VERSIONS},
        "git_commit": _git_commit(),
        "command": list(command),
        "host": socket.gethostname(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _check_same(run: RunDir, config: TrainConfig, data_digests: Mapping[str, str]) -> None:
    written = read_json(run.provenance)
    if written["config_digest"] != config_digest(config):
        differing = differing_keys(run, config)
        shown = "; ".join(f"{key}: {old!r} there, {new!r} now" for key, old, new in differing[:8])
        raise RunDirError(
            f"run_dir={run.path}: holds a run with another configuration ({shown or 'written by another version'}). "
            "Choose another run_dir, or use the same values to resume."
        )
    for key, digest in data_digests.items():
        if written["data"].get(key, digest) != digest:
            raise RunDirError(f"run_dir={run.path}: {key} has changed since this run began; choose another run_dir")


def differing_keys(run: RunDir, config: TrainConfig) -> list[tuple[str, Any, Any]]:
    """(dotted key, value in the directory, value now) of the keys that must be the same and are not."""
    import yaml

    old = _flat(yaml.safe_load(run.config.read_text(encoding="utf-8")))
    new = _flat(plain(config))
    keys = [key for key in {**old, **new} if key.split(".")[0] not in FREE_SECTIONS and key not in FREE_KEYS]
    return [(key, old.get(key), new.get(key)) for key in sorted(keys) if old.get(key) != new.get(key)]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix[:-1]: value}
    return {key: leaf for name, item in value.items() for key, leaf in _flat(item, f"{prefix}{name}.").items()}


def cut_after(path: Path, step: int) -> int:
    """Drop the lines of a JSONL file whose step is beyond `step`, and a torn last line. Returns lines dropped."""
    if not path.is_file():
        return 0
    lines = path.read_text(encoding="utf-8").split("\n")
    torn = bool(lines.pop())
    kept = [line for line in lines if _step_of(line) <= step]
    dropped = len(lines) - len(kept) + torn
    if dropped:
        write_text(path, "".join(f"{line}\n" for line in kept))
    return dropped


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append one JSON line, in one write."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the checkout this code runs from, '+changes' where files differ from it; None in a wheel."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() or None
