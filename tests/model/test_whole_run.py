"""A whole run of 50 steps in fp32 ends with the same weights, whatever the layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training.tiny import metrics, overrides, weights, write_dialogue_file, write_tiny_model

from extes_train.train import main

# Adam divides by the root of tiny second moments, so rounding grows with every step; still a thousandth of the way
TOLERANCE = 1e-3


def run_of(folder: Path, name: str, *words: str) -> Path:
    tiny = {"data": str(folder / "dialogues.jsonl"), "model": str(folder / "model")}
    changes = [
        "augmentation=dri", "optim.max_steps=50", "optim.lr=1e-3", "optim.dialogues_per_step=2",
        "checkpoint.at_end=false",
    ]  # fmt: skip
    main(overrides(tiny, folder / name, *changes, *words))
    return folder / name


def norm_of_difference(one: dict[str, Any], other: dict[str, Any], name: str) -> float:
    return float((one[name].double() - other[name].double()).norm())


def test_tree_and_flat_end_with_the_same_weights(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    write_dialogue_file(tmp_path / "dialogues.jsonl", number=8)
    write_tiny_model(tmp_path / "dialogues.jsonl", tmp_path / "model")
    start = load_file(tmp_path / "model" / "model.safetensors")
    tree = run_of(tmp_path, "tree")
    for flat in ("multi_turn", "per_response"):
        other = run_of(tmp_path, flat, "tokens.layout=flat", f"tokens.flat={flat}")
        for line, flat_line in zip(metrics(tree), metrics(other), strict=True):
            assert line["targets"] == flat_line["targets"] and line["tokens"] < flat_line["tokens"]
            assert line["loss"] == pytest.approx(flat_line["loss"], rel=1e-4)
        got, want = weights(tree), weights(other)
        for name in want:
            moved = norm_of_difference(want, start, name)
            assert moved > 1e-3 * float(want[name].norm()), name
            assert norm_of_difference(got, want, name) <= TOLERANCE * moved, name
