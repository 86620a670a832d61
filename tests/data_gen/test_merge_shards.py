"""Merging shards: duplicates across them go, sides stay apart, counts add up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_gen.config import GenerateConfig, TeacherConfig
from data_gen.generate import generate
from data_gen.merge import merge_shards
from extes_train.dialogue.jsonl import read_dialogues, write_dialogues
from extes_train.dialogue.leak import check_leak
from extes_train.dialogue.schema import make_dialogue
from extes_train.errors import ConfigError, DataError


def shard(out: Path, number: str, teacher: TeacherConfig, seed: int = 0) -> Path:
    sides = {"train": 0.7, "valid": 0.3}
    generate(GenerateConfig(out=str(out), num_dialogues=20, sides=sides, shard=number, seed=seed), teacher)
    return out


def test_shards_become_one(tmp_path: Path, teacher: TeacherConfig) -> None:
    first, second = shard(tmp_path / "0", "0/2", teacher), shard(tmp_path / "1", "1/2", teacher)
    dialogues = read_dialogues(second / "dialogues.jsonl")
    near = dialogues[0]
    near.turns[0].text += " Really."
    planted = make_dialogue(near.scenario, near.situation, near.turns, near.provenance)
    write_dialogues(second / "dialogues.jsonl", [*read_dialogues(second / "dialogues.jsonl"), planted])
    result = merge_shards([first, second, first / "dialogues.jsonl"], tmp_path / "all", taxonomy="extes")
    assert (result.read, result.kept, result.reasons) == (31, 20, {"near_duplicate": 1, "duplicate": 10})
    by_side = {side: read_dialogues(tmp_path / "all" / f"{side}.jsonl") for side in result.sides}
    assert sum(len(found) for found in by_side.values()) == 20
    check_leak(by_side)
    card = json.loads((tmp_path / "all" / "card.json").read_text())
    assert card["counts"]["read"] == card["counts"]["kept"] + card["counts"]["dropped"]
    assert sum(row["count"] for row in card["scenarios"]) == 20


def test_shards_that_would_leak_are_refused(tmp_path: Path, teacher: TeacherConfig) -> None:
    first, other = shard(tmp_path / "0", "0/2", teacher), shard(tmp_path / "1", "1/2", teacher, seed=5)
    with pytest.raises(DataError, match=r"stands on the sides .*different generate\.seed"):
        merge_shards([first, other], tmp_path / "all")
    with pytest.raises(ConfigError, match="overwrite"):
        merge_shards([first], first)
