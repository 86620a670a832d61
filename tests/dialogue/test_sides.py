"""The sides of a run: split by hash, by file or as recorded, and the shuffled control."""

from __future__ import annotations

from collections import Counter

import pytest

from extes_train.dialogue.control import shuffle_responses
from extes_train.dialogue.jsonl import write_dialogues
from extes_train.dialogue.schema import SUPPORTER, Alternative, Turn, make_dialogue
from extes_train.dialogue.sides import load_sides
from extes_train.dialogue.split import side_of, split_dialogues
from extes_train.errors import ConfigError, DataError
from extes_train.tokens.config import DataConfig


def some(count, start=0, side=None, turns=3):
    result = []
    for i in range(start, start + count):
        pairs = [
            [Turn("seeker", f"s{i}a{j} s{i}b{j} s{i}c{j}"), Turn("supporter", f"r{i}x{j} r{i}y{j}", "others")]
            for j in range(turns)
        ]
        provenance = {} if side is None else {"side": side}
        result.append(make_dialogue("academic-stress", f"n{i}", [turn for pair in pairs for turn in pair], provenance))
    return result


def test_side_of_is_stable_and_follows_the_shares():
    shares = {"train": 0.8, "valid": 0.1, "test": 0.1}
    keys = [f"k{i}" for i in range(4000)]
    dealt = Counter(side_of(key, shares, 7) for key in keys)
    assert all(abs(dealt[side] / 4000 - share) < 0.03 for side, share in shares.items())
    assert [side_of(key, shares, 7) for key in keys[::-1]] == [side_of(key, shares, 7) for key in keys][::-1]
    assert [side_of(key, shares, 8) for key in keys] != [side_of(key, shares, 7) for key in keys]
    assert side_of("a", {"train": 1.0, "valid": 0.0}, 0) == "train"
    with pytest.raises(ConfigError, match="must not"):
        side_of("a", {"train": -1.0}, 0)


def test_a_split_does_not_depend_on_order_or_company():
    dialogues = some(200)
    train, valid = split_dialogues(dialogues, 0.2, 0)
    assert len(train) + len(valid) == 200 and 20 < len(valid) < 60
    again, fewer = split_dialogues(dialogues[100:], 0.2, 0)
    assert fewer == [d for d in valid if d in dialogues[100:]] and again == [d for d in train if d in dialogues[100:]]


def test_one_file_is_split_by_hash(tmp_path):
    write_dialogues(tmp_path / "d.jsonl", some(60))
    sides = load_sides(DataConfig(train=str(tmp_path / "d.jsonl"), valid_fraction=0.2))
    assert (sides.train, sides.valid) == split_dialogues(some(60), 0.2, 0)
    assert sides.test is sides.valid
    assert sides.report["train"] + sides.report["valid"] == 60
    assert sides.report["valid_from"] == "hash, 0.2 with seed 0"


def test_recorded_sides_are_kept(tmp_path):
    parts = {side: some(4, 10 * i, side) for i, side in enumerate(("train", "valid", "test", "base"))}
    write_dialogues(tmp_path / "d.jsonl", [d for part in parts.values() for d in part])
    sides = load_sides(DataConfig(train=str(tmp_path / "d.jsonl")))
    assert (sides.train, sides.valid, sides.test) == (parts["train"], parts["valid"], parts["test"])
    assert sides.report["left_out"] == {"valid": 4, "test": 4, "base": 4}


def test_files_for_each_side_and_a_base_side_for_pretraining(tmp_path):
    for name, dialogues in {"a": some(3), "b": some(2, 10), "c": some(2, 20), "base": some(9, 30, "base")}.items():
        write_dialogues(tmp_path / f"{name}.jsonl", dialogues)
    a, b, c, base = (str(tmp_path / f"{name}.jsonl") for name in ("a", "b", "c", "base"))
    sides = load_sides(DataConfig(train=a, valid=b, test=c))
    assert (sides.train, sides.valid, sides.test) == (some(3), some(2, 10), some(2, 20))
    sides = load_sides(DataConfig(train=base, valid=b, test=b, max_dialogues=5))
    assert (len(sides.train), sides.report["beyond_max_dialogues"]) == (5, 4)
    assert load_sides(DataConfig(train=a, valid_fraction=0.0)).valid == []
    assert load_sides(DataConfig(train=a, valid=b), train=c).train == some(2, 20)


def test_refusals(tmp_path):
    path = str(tmp_path / "d.jsonl")
    with pytest.raises(ConfigError, match=r"data\.train: is needed"):
        load_sides(DataConfig())
    write_dialogues(path, some(1))
    with pytest.raises(DataError, match=r"nothing is left for the (valid|train) side .*split_seed=0"):
        load_sides(DataConfig(train=path))
    with pytest.raises(DataError, match="are not apart"):
        load_sides(DataConfig(train=path, valid=path))
    assert load_sides(DataConfig(train=path, valid=path, leak_check=False)).valid == some(1)
    write_dialogues(path, [make_dialogue("academic-stress", "", [Turn("supporter", "Hm.", "question")])])
    with pytest.raises(DataError, match=r"d\.jsonl:1: turns\[0\]\.strategy"):
        load_sides(DataConfig(train=path))


def test_the_control_moves_every_response_to_another_dialogue(tmp_path):
    dialogues = some(20)
    dialogues[3].turns[1].alternatives = [Alternative("an alternative")]
    shuffled = shuffle_responses(dialogues, seed=1)
    assert shuffle_responses(dialogues, seed=1) == shuffled != shuffle_responses(dialogues, seed=2)
    responses = [[t.text for t in d.turns if t.speaker == SUPPORTER] for d in dialogues]
    moved = [[t.text for t in d.turns if t.speaker == SUPPORTER] for d in shuffled]
    assert sorted(t for own in moved for t in own) == sorted(t for own in responses for t in own)
    assert all(not set(a) & set(b) for a, b in zip(responses, moved))
    assert [[t for t in d.turns if t.speaker != SUPPORTER] for d in shuffled] == [
        [t for t in d.turns if t.speaker != SUPPORTER] for d in dialogues
    ]
    assert sum(len(t.alternatives) for d in shuffled for t in d.turns) == 1
    assert [d.provenance["shuffled_from"] for d in shuffled] == [d.id for d in dialogues]
    write_dialogues(tmp_path / "d.jsonl", dialogues)
    plain = load_sides(DataConfig(train=str(tmp_path / "d.jsonl"), valid_fraction=0.3))
    control = load_sides(DataConfig(train=str(tmp_path / "d.jsonl"), valid_fraction=0.3, shuffle_responses=True))
    assert control.valid == plain.valid and len(control.train) == len(plain.train)
    assert not {d.id for d in control.train} & {d.id for d in plain.train}


def test_the_control_needs_somewhere_to_go():
    with pytest.raises(DataError, match="one of 2 dialogues has 9 of all 10 supporter turns"):
        shuffle_responses(some(1, turns=9) + some(1, 5, turns=1))
