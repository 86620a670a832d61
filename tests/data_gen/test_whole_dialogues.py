"""Inpainting with one request for all turns of a dialogue: what the prompt shows, and what is kept of the reply."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_gen.config import GenerateConfig, InpaintConfig, TeacherConfig
from data_gen.generate import generate
from data_gen.inpaint import inpaint
from data_gen.inpainting import Inpainting
from data_gen.journal import read_journal
from data_gen.prompting import load_prompts
from extes_train.dialogue.jsonl import read_dialogues
from extes_train.dialogue.taxonomy import load_taxonomy

EXTES = load_taxonomy("extes")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, teacher_url: str) -> Path:
    out = tmp_path_factory.mktemp("source")
    generate(GenerateConfig(out=str(out), num_dialogues=4, sides={"train": 1.0}), TeacherConfig(base_url=teacher_url))
    return out / "dialogues.jsonl"


def config(source: Path, out: Path, **changes: Any) -> InpaintConfig:
    return InpaintConfig(input=str(source), out=str(out), num_alternatives=2, scope="dialogue", **changes)


def test_held_strategies_are_shown_and_kept(source: Path, tmp_path: Path, teacher: TeacherConfig) -> None:
    dialogues = read_dialogues(source, EXTES)
    work = Inpainting(config(source, tmp_path, strategy="held"), teacher, load_prompts(None, EXTES), dialogues)
    prompt = work.messages(work.plan()[0])[-1]["content"]
    for i, turn in enumerate(dialogues[0].turns):
        label = f" ({turn.strategy})" if turn.strategy else ""
        assert f"\n[{i}] {turn.speaker}{label}: " in prompt
    result = inpaint(config(source, tmp_path, strategy="held"), teacher)
    assert result.reasons.get("not_held", 0) == 0
    kept = [
        (turn, a) for d in read_dialogues(tmp_path / "dialogues.jsonl") for turn in d.turns for a in turn.alternatives
    ]
    assert len(kept) == result.alternatives > result.turns
    assert all(alternative.strategy == turn.strategy for turn, alternative in kept)


@pytest.mark.parametrize("strategy", ["free", "varied"])
def test_probabilities_of_every_turn(strategy: str, source: Path, tmp_path: Path, teacher: TeacherConfig) -> None:
    result = inpaint(config(source, tmp_path, strategy=strategy, verbalized=True), teacher)
    dialogues = read_dialogues(tmp_path / "dialogues.jsonl")
    kept = [alternative for d in dialogues for turn in d.turns for alternative in turn.alternatives]
    assert len(kept) == result.alternatives > 0 and result.card["settings"]["verbalized"] is True
    assert all(0 < alternative.provenance["probability"] < 1 for alternative in kept)
    requests = [record for record in read_journal(tmp_path / "journal.jsonl") if record["kind"] == "reply"]
    assert len(requests) == len(dialogues) == 4
