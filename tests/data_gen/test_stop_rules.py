"""Why a run ends, each rule by a run of its own, and what the card keeps of the way there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_gen.config import GenerateConfig, TeacherConfig
from data_gen.generate import GenerateResult, generate
from data_gen.journal import read_journal

ROUND = 10


def run(out: Path, teacher: TeacherConfig, **changes: Any) -> GenerateResult:
    base = GenerateConfig(out=str(out), num_dialogues=60, round_size=ROUND, lag=5, sides={"train": 1.0})
    return generate(replace(base, **changes), teacher)


def test_the_size(tmp_path: Path, teacher: TeacherConfig) -> None:
    result = run(tmp_path, teacher, num_dialogues=12)
    assert (result.stopped, result.accepted) == ("size", 12)
    assert result.message.startswith(f"12 of 12 dialogues accepted out of {result.candidates} candidates")


def test_novelty_below_the_floor(tmp_path: Path, teacher: TeacherConfig) -> None:
    """The first round of the offline teacher brings much that is new, later ones less: the floor lies between."""
    free = run(tmp_path / "free", teacher)
    novelty = [round_["novelty"] for round_ in free.card["rounds"] if round_["candidates"] == ROUND]
    assert novelty[0] > min(novelty) > 0
    floor = min(novelty[:-1]) + 1e-4
    stopped = run(tmp_path / "floor", teacher, min_novelty=floor)
    first_below = next(i for i, value in enumerate(novelty) if value < floor)
    assert stopped.stopped == "novelty" and stopped.candidates == (first_below + 1) * ROUND
    assert f"a round's novelty fell below generate.min_novelty={floor:g}" in stopped.message
    assert stopped.card["rounds"] == free.card["rounds"][: first_below + 1]


def test_the_number_of_candidates(tmp_path: Path, teacher: TeacherConfig) -> None:
    result = run(tmp_path, teacher, max_candidates=15)
    assert (result.stopped, result.candidates) == ("max_candidates", 15)
    assert "generate.max_candidates=15" in result.message


PRICES = {"price_per_million_prompt_tokens": 1.0, "price_per_million_completion_tokens": 2.0}


@pytest.mark.parametrize("cap", [{"max_total_tokens": 40_000}, {"max_cost": 0.05}], ids=["tokens", "money"])
def test_a_budget_in_tokens_or_money(cap: dict[str, float], tmp_path: Path, teacher: TeacherConfig) -> None:
    priced = replace(teacher, **PRICES)
    result = run(tmp_path, replace(priced, **cap))
    assert result.stopped == "budget" and f"teacher.{next(iter(cap))}" in result.message and 0 < result.accepted < 60
    replies = [record for record in read_journal(tmp_path / "journal.jsonl") if record["kind"] == "reply"]
    tokens = [sum(record["tokens"]) for record in replies]
    prices = [(record["tokens"][0] * 1.0 + record["tokens"][1] * 2.0) / 1e6 for record in replies]
    spent, limit = (
        (sum(tokens), cap["max_total_tokens"]) if "max_total_tokens" in cap else (sum(prices), cap["max_cost"])
    )
    in_flight = min(teacher.concurrency, 5) * max(tokens if "max_total_tokens" in cap else prices)
    assert limit - in_flight <= spent <= limit + in_flight
    assert result.card["teacher"]["list_price"] == pytest.approx(sum(prices), abs=1e-4)
    assert run(tmp_path, replace(priced, **{key: value * 100 for key, value in cap.items()})).stopped == "size"


def test_the_card_keeps_how_acceptance_went(tmp_path: Path, teacher: TeacherConfig) -> None:
    """Round by round, in card.json and README.md; near-duplicates grow as the pool does."""
    from data_gen.config import FiltersConfig

    result = run(tmp_path, teacher, filters=FiltersConfig(near_duplicate=0.06), max_candidates=60)
    rounds = result.card["rounds"]
    assert sum(round_["candidates"] for round_ in rounds) == result.candidates
    assert sum(round_["accepted"] for round_ in rounds) == result.accepted
    assert all(round_["acceptance"] == round(round_["accepted"] / round_["candidates"], 4) for round_ in rounds)
    assert rounds[0]["acceptance"] > rounds[-1]["acceptance"] and result.reasons["near_duplicate"] > 0
    text = (tmp_path / "README.md").read_text()
    assert "## Rounds" in text and f"| 0 | {ROUND} | {rounds[0]['accepted']} | {rounds[0]['acceptance']} |" in text
    assert json.loads((tmp_path / "card.json").read_text())["rounds"] == rounds
