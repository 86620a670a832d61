"""Seeds: the shipped ones keep their promises, bad files name the entry and the field, sides are dealt by hash."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml

from data_gen.config import FiltersConfig
from data_gen.filters.chain import check_dialogue_text
from data_gen.filters.text import TextView
from data_gen.seed_dialogues import deal_seeds, read_seeds
from extes_train.dialogue.schema import Dialogue
from extes_train.dialogue.shingles import words
from extes_train.dialogue.taxonomy import load_taxonomy
from extes_train.errors import ConfigError, DataError

EXTES = load_taxonomy("extes")


@pytest.fixture(scope="module")
def seeds() -> list[Dialogue]:
    return read_seeds(None, EXTES)


def test_shipped_seeds_cover_the_taxonomy(seeds: list[Dialogue]) -> None:
    assert len(seeds) >= 87
    scenarios = Counter(seed.scenario for seed in seeds)
    assert set(scenarios) == set(EXTES.scenarios) and min(scenarios.values()) >= 2
    strategies = Counter(turn.strategy for seed in seeds for turn in seed.turns if turn.speaker == "supporter")
    assert set(strategies) == set(EXTES.strategies) and min(strategies.values()) >= 12
    assert all(12 <= len(seed.turns) <= 24 for seed in seeds)
    assert sum(any(turn.tags for turn in seed.turns) for seed in seeds) >= 0.15 * len(seeds)


def test_shipped_seeds_share_no_eight_words(seeds: list[Dialogue]) -> None:
    owner: dict[tuple[str, ...], str] = {}
    for seed in seeds:
        found = words("\n".join([seed.situation, *(turn.text for turn in seed.turns)]))
        for gram in {tuple(found[i : i + 8]) for i in range(len(found) - 7)}:
            assert owner.setdefault(gram, seed.id) == seed.id, " ".join(gram)


def test_shipped_seeds_pass_the_filters(seeds: list[Dialogue]) -> None:
    """All but crisis: practitioners do speak of suicide, and what is generated so is set aside for people."""
    config = FiltersConfig(crisis=False)
    for seed in seeds:
        assert check_dialogue_text(seed, TextView([turn.text for turn in seed.turns]), config) is None, seed.scenario


def test_errors_name_entry_and_field(tmp_path: Path) -> None:
    good = {"scenario": "academic-stress", "situation": "An exam.", "turns": []}
    good["turns"] = [
        {"speaker": "seeker", "text": "I failed."},
        {"speaker": "supporter", "text": "That hurts.", "strategy": "emotional-valdation"},
    ]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump([good]))
    with pytest.raises(
        DataError, match=r'mine.yaml:entry 1: turns\[1\].strategy: .*did you mean "emotional-validation"'
    ):
        read_seeds(path, EXTES)
    good["turns"][1] = {"speaker": "supporter", "text": "That hurts.", "strategy": "emotional-validation"}
    del good["situation"]
    path.write_text(yaml.safe_dump([good]))
    with pytest.raises(DataError, match=r"mine\.yaml:entry 1: situation: missing"):
        read_seeds(path, EXTES)
    path.write_text("a: [")
    with pytest.raises(DataError, match="no YAML"):
        read_seeds(path, EXTES)
    with pytest.raises(DataError, match="no such file"):
        read_seeds(tmp_path / "other", EXTES)


def test_jsonl_seeds_are_the_same_dialogues(tmp_path: Path, seeds: list[Dialogue]) -> None:
    import json

    lines = []
    for seed in seeds[:3]:
        turns = [{"speaker": t.speaker, "text": t.text, "strategy": t.strategy, "tags": t.tags} for t in seed.turns]
        lines.append(json.dumps({"scenario": seed.scenario, "situation": seed.situation, "turns": turns}))
    (tmp_path / "s.jsonl").write_text("\n".join(lines) + "\n")
    assert [seed.id for seed in read_seeds(tmp_path, EXTES)] == [seed.id for seed in seeds[:3]]
    (tmp_path / "s.jsonl").write_text("\n".join([*lines, lines[0]]) + "\n")
    with pytest.raises(DataError, match=r"s.jsonl:4: the same dialogue is already at .*s.jsonl:1"):
        read_seeds(tmp_path, EXTES)


def test_every_side_has_its_own_seeds(seeds: list[Dialogue]) -> None:
    shares = {"train": 0.7, "valid": 0.1, "test": 0.1, "base": 0.1}
    dealt = deal_seeds(seeds, shares, 0)
    ids = [seed.id for side in dealt.values() for seed in side]
    assert sorted(ids) == sorted(seed.id for seed in seeds)
    assert all(dealt[side] for side in shares)
    without = deal_seeds(seeds[1:], shares, 0)  # a seed less moves no other
    assert all({s.id for s in without[side]} == {s.id for s in dealt[side]} - {seeds[0].id} for side in shares)
    few = deal_seeds(seeds[:4], shares, 0)
    assert all(len(few[side]) == 1 for side in shares)


def test_bad_shares(seeds: list[Dialogue]) -> None:
    with pytest.raises(ConfigError, match=r'generate.sides.tran: .*did you mean "train"'):
        deal_seeds(seeds, {"tran": 1.0}, 0)
    with pytest.raises(ConfigError, match=r"add up to 0\.9"):
        deal_seeds(seeds, {"train": 0.9}, 0)
    with pytest.raises(DataError, match="1 seed dialogues for 2 sides"):
        deal_seeds(seeds[:1], {"train": 0.5, "valid": 0.5}, 0)
