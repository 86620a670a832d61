"""Another domain, by data alone: own scenarios, strategies and seeds go through generation and inpainting."""

from __future__ import annotations

from pathlib import Path

from data_gen.config import FiltersConfig, GenerateConfig, InpaintConfig, TeacherConfig
from data_gen.generate import generate
from data_gen.inpaint import inpaint
from extes_train.dialogue.jsonl import read_dialogues
from extes_train.dialogue.taxonomy import load_taxonomy

DOMAIN = Path(__file__).resolve().parent / "second_domain"


def test_customer_service(tmp_path: Path, teacher: TeacherConfig) -> None:
    labels = str(DOMAIN / "taxonomy.yaml")
    filters = FiltersConfig(min_turns=6)
    generated = generate(
        GenerateConfig(
            out=str(tmp_path / "g"),
            num_dialogues=12,
            seeds=str(DOMAIN / "seeds.yaml"),
            taxonomy=labels,
            sides={"train": 0.75, "valid": 0.25},
            turns=10,
            filters=filters,
        ),
        teacher,
    )
    taxonomy = load_taxonomy(labels)
    dialogues = read_dialogues(tmp_path / "g" / "dialogues.jsonl", taxonomy)
    assert len(dialogues) == 12 and {d.scenario for d in dialogues} == set(taxonomy.scenarios)
    assert [row["id"] for row in generated.card["strategies"]] == list(taxonomy.strategies)
    assert generated.card["scenarios"][0]["published_count"] is None
    result = inpaint(
        InpaintConfig(
            input=str(tmp_path / "g"), out=str(tmp_path / "i"), taxonomy=labels, num_alternatives=2, filters=filters
        ),
        teacher,
    )
    after = read_dialogues(tmp_path / "i" / "train.jsonl", taxonomy)
    turns = [turn for dialogue in after for turn in dialogue.turns if turn.speaker == "supporter"]
    assert result.alternatives == sum(len(turn.alternatives) for turn in turns) >= len(turns)
    assert {a.strategy for turn in turns for a in turn.alternatives} <= set(taxonomy.strategies)
