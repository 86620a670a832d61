"""Checkpoints: RUN/checkpoints/step-N/, COMPLETED written last, `latest` pointing at a completed one.

    step-N/engine/              DeepSpeed's files: weights that move, optimizer, one file a rank and more
    step-N/rank-R.safetensors   random generators of rank R
    step-N/state.json           step, what the run has used, world size, generators that are no tensors
    step-N/COMPLETED            empty; without it the checkpoint does not exist

All ranks call every function here that takes a process group.
"""

from __future__ import annotations

import os
import random
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from extes_train.dialogue.files import read_json, sync_directory, write_json, write_text
from extes_train.training.budget import Spent

if TYPE_CHECKING:
    from extes_train.engine.engine import Engine
    from extes_train.engine.process_group import ProcessGroup

ENGINE_TAG = "engine"


def completed_steps(checkpoints: Path) -> list[int]:
    """Steps of the completed checkpoints, ascending."""
    found = [int(match.group(1)) for path in checkpoints.glob("step-*") if (match := _named(path.name))]
    return sorted(step for step in found if (checkpoints / f"step-{step}" / "COMPLETED").is_file())


def torn_checkpoints(checkpoints: Path) -> list[Path]:
    """Checkpoints that were begun and not completed."""
    return sorted(p for p in checkpoints.glob("step-*") if _named(p.name) and not (p / "COMPLETED").is_file())


def save_checkpoint(engine: Engine, group: ProcessGroup, checkpoints: Path, spent: Spent, keep_last: int) -> Path:
    """Write step-N and point `latest` at it; older ones beyond `keep_last` go."""
    path = checkpoints / f"step-{spent.step}"
    if group.rank == 0:
        shutil.rmtree(path, ignore_errors=True)  # a torn one of the same step
        path.mkdir(parents=True)
    group.barrier()
    engine.save(path, ENGINE_TAG)
    save_file(_tensor_generators(), path / f"rank-{group.rank}.safetensors")
    write_json(path / f"rank-{group.rank}.json", _plain_generators())
    group.barrier()
    if group.rank == 0:
        write_json(path / "state.json", {"spent": spent.to_dict(), "world_size": group.world_size})
        write_text(path / "COMPLETED", "")
        _point_latest(checkpoints, path.name)
        for step in completed_steps(checkpoints)[:-keep_last]:
            (checkpoints / f"step-{step}" / "COMPLETED").unlink()  # never half a checkpoint that looks whole
            shutil.rmtree(checkpoints / f"step-{step}")
    group.barrier()
    return path


def load_checkpoint(engine: Engine, group: ProcessGroup, path: Path) -> Spent:
    """Put engine and random generators back to where `path` was written; returns what the run had used by then.

    With another world size the optimizer's parts are dealt anew (engine) and random generators start from their
    seeds: exact but for dropout.
    """
    state = read_json(path / "state.json")
    engine.load(path, ENGINE_TAG)
    if state["world_size"] == group.world_size:
        _restore_generators(path, group.rank)
    return Spent(**state["spent"])


def _named(name: str) -> re.Match[str] | None:
    return re.fullmatch(r"step-(\d+)", name)


def _point_latest(checkpoints: Path, name: str) -> None:
    """Replace the symbolic link in one rename."""
    temporary = checkpoints / ".latest.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(name)
    os.replace(temporary, checkpoints / "latest")
    sync_directory(checkpoints)


def _tensor_generators() -> dict[str, torch.Tensor]:
    states = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(_numpy_state()["state"]["key"].astype("int64"))}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _plain_generators() -> dict[str, Any]:
    numpy_state = _numpy_state()
    return {
        "python": random.getstate(),
        "numpy": {"pos": numpy_state["state"]["pos"], "gauss": [numpy_state["has_gauss"], numpy_state["gauss"]]},
    }


def _numpy_state() -> dict[str, Any]:
    state = np.random.get_state(legacy=False)
    assert isinstance(state, dict)
    return state


def _restore_generators(path: Path, rank: int) -> None:
    tensors = load_file(path / f"rank-{rank}.safetensors")
    others = read_json(path / f"rank-{rank}.json")
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
    version, internal, gauss = others["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(
        {
            "bit_generator": "MT19937",
            "state": {"key": tensors["numpy"].numpy().astype("uint32"), "pos": others["numpy"]["pos"]},
            "has_gauss": others["numpy"]["gauss"][0], "gauss": others["numpy"]["gauss"][1],
        }
    )  # fmt: skip
