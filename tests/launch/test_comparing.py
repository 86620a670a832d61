"""A whole comparison, small: data from the teacher, a base, two arms, evaluation and report."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from launch.main import main

SMALL = (
    "experiment=quickstart", "launcher=local", "generate.num_dialogues=48", "generate.turns=10",
    "inpaint.num_alternatives=1",
    "pretrain.max_steps=4", "pretrain.dialogues_per_step=4", "pretrain.vocab_size=400", "optim.max_steps=2",
    "optim.dialogues_per_step=4", "evaluation.num_responses=3", "evaluation.max_new_tokens=4", "data.leak_check=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of a sound arm and one that must fail."""
    out = tmp_path_factory.mktemp("compared")
    words = [*SMALL, f"compare.out={out}", "compare.arms=[full/none,lora/dri]"]
    assert main(["compare", *words, "compare.tuning.lora.tuning.target_modules=[no_such_layer]"]) == 1
    first = (out / "arms/full/model/model.safetensors").stat().st_mtime_ns
    assert main(["compare", *words, "compare.tuning.lora.tuning.target_modules=[q_proj]"]) == 0
    assert (out / "arms/full/model/model.safetensors").stat().st_mtime_ns == first, "a finished arm was trained again"
    return out


def test_results_hold_what_the_contract_names(compared: Path) -> None:
    results = json.loads((compared / "results.json").read_text())
    arms = {arm["name"]: arm for arm in results["arms"]}
    assert set(arms) == {"full", "lora-dri"}
    for arm in arms.values():
        metrics, cost = arm["metrics"], arm["cost"]
        for key in ("base_perplexity", "perplexity", "bleu4", "rouge_l", "meteor", "distinct1", "distinct2"):
            assert math.isfinite(metrics[key]), key
        for key in ("train_seconds", "tokens", "targets", "peak_memory_bytes", "trainable_parameters"):
            assert cost[key] > 0, key
    assert arms["full"]["metrics"]["base_perplexity"] == arms["lora-dri"]["metrics"]["base_perplexity"]
    assert arms["full"]["metrics"]["perplexity"] != arms["full"]["metrics"]["base_perplexity"]
    assert arms["lora-dri"]["cost"]["targets"] > arms["full"]["cost"]["targets"]
    assert arms["lora-dri"]["cost"]["trainable_parameters"] < arms["full"]["cost"]["trainable_parameters"]


def test_the_report_shows_every_arm(compared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(compared)]) == 0
    table = capsys.readouterr().out
    assert max(map(len, table.splitlines())) <= 80
    for text in (table, (compared / "report.md").read_text(), (compared / "report.html").read_text()):
        assert "lora-dri" in text and "full" in text


def test_both_arms_were_scored_on_the_same_tokens(compared: Path) -> None:
    digests = {json.loads(path.read_text())["digest"] for path in compared.glob("arms/*/evaluation/metrics.json")}
    assert len(digests) == 1


def test_sides_share_no_dialogue(compared: Path) -> None:
    sides = {path.stem: path.read_text().splitlines() for path in (compared / "generated").glob("*.jsonl")}
    ids = {side: {json.loads(line)["id"] for line in sides[side]} for side in ("train", "valid", "base")}
    assert all(ids.values())
    assert not ids["train"] & ids["valid"] and not ids["train"] & ids["base"] and not ids["valid"] & ids["base"]
