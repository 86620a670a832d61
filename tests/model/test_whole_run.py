"""A whole run of 50 steps in fp32 ends with the same weights, whatever the layout."""

from __future__ import annotations

from pathlib import Path

import pytest
from training.tiny import metrics, overrides, weights, write_dialogue_file, write_tiny_model

from extes_train.errors import ConfigError
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


RUNS: dict[str, list[str]] = {
    "full": [],
    "LoRA, checkpointing, responses weighed": [
        "tuning=lora", "model.gradient_checkpointing=true", "loss.weighting=response", "loss.per_turn=mean",
        "loss.alternatives_weight=0.3", "zero=zero2",
    ],
}  # fmt: skip


@pytest.mark.parametrize("words", RUNS.values(), ids=RUNS)
def test_tree_and_flat_end_with_the_same_weights(words: list[str], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    write_dialogue_file(tmp_path / "dialogues.jsonl", number=8)
    write_tiny_model(tmp_path / "dialogues.jsonl", tmp_path / "model")
    start = load_file(tmp_path / "model" / "model.safetensors")
    tree = run_of(tmp_path, "tree", *words)
    for flat in ("multi_turn", "per_response") if not words else ("multi_turn",):
        other = run_of(tmp_path, flat, "tokens.layout=flat", f"tokens.flat={flat}", *words)
        for line, flat_line in zip(metrics(tree), metrics(other), strict=True):
            assert line["targets"] == flat_line["targets"] and line["tokens"] < flat_line["tokens"]
            assert line["weight"] == pytest.approx(flat_line["weight"], rel=1e-6)
            assert line["loss"] == pytest.approx(flat_line["loss"], rel=1e-4)
        got, want = weights(tree), weights(other)
        for name in want:
            begin = start.get(name, 0 * want[name])  # an adapter's B begins as zeros; A is measured whole
            moved = float((want[name].double() - begin.double()).norm())
            assert moved > 1e-3 * float(want[name].norm()), name
            assert float((got[name].double() - want[name].double()).norm()) <= TOLERANCE * moved, name


def test_the_run_says_which_attention_and_which_loss_it_took(tmp_path: Path) -> None:
    import json

    write_dialogue_file(tmp_path / "dialogues.jsonl", number=8)
    write_tiny_model(tmp_path / "dialogues.jsonl", tmp_path / "model")
    run = run_of(tmp_path, "run", "optim.max_steps=1")
    said = json.loads((run / "provenance.json").read_text())["attention"]
    assert said and all(" row" in line and "tokens (" in line for line in said), said
    words = ["optim.max_steps=1", "model.attention=sdpa", "loss.kernel=torch", "loss.chunk_tokens=9"]
    asked = json.loads((run_of(tmp_path, "asked", *words) / "provenance.json").read_text())
    assert asked["attention"] == ["sdpa for all rows (model.attention)"]
    assert asked["loss"] == "torch, 9 targets at a time (loss.kernel)"
    with pytest.raises(ConfigError, match=r"loss\.kernel=liger: liger-kernel "):
        run_of(tmp_path, "refused", "loss.kernel=liger")
