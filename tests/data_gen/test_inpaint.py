"""Inpainting against the loopback teacher: ids kept, every candidate counted, resumable, any data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_gen.config import FaultsConfig, GenerateConfig, InpaintConfig, ServeConfig, TeacherConfig
from data_gen.diversity import Response, similarity
from data_gen.generate import generate
from data_gen.inpaint import InpaintResult, inpaint
from data_gen.inpainting import Inpainting
from data_gen.journal import read_journal
from data_gen.prompting import load_prompts
from data_gen.teacher.client import Completion
from data_gen.teacher.serve import background_server
from extes_train.dialogue.jsonl import read_dialogues, write_dialogues
from extes_train.dialogue.schema import Dialogue, Turn, make_dialogue
from extes_train.dialogue.taxonomy import load_taxonomy
from extes_train.errors import ConfigError, RunDirError

EXTES = load_taxonomy("extes")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, teacher_url: str) -> Path:
    out = tmp_path_factory.mktemp("source")
    config = GenerateConfig(out=str(out), num_dialogues=8, sides={"train": 0.75, "valid": 0.25})
    generate(config, TeacherConfig(base_url=teacher_url))
    return out


def config(source: Path, out: Path, **changes: Any) -> InpaintConfig:
    return replace(InpaintConfig(input=str(source), out=str(out), num_alternatives=3, lag=8), **changes)


@pytest.fixture(scope="module")
def reference(source: Path, tmp_path_factory: pytest.TempPathFactory, teacher_url: str) -> InpaintResult:
    out = tmp_path_factory.mktemp("inpainted")
    return inpaint(config(source, out), TeacherConfig(base_url=teacher_url, concurrency=16))


def test_ids_and_turns_are_kept(source: Path, reference: InpaintResult) -> None:
    before = read_dialogues(source / "dialogues.jsonl", EXTES)
    after = read_dialogues(reference.out / "dialogues.jsonl", EXTES)
    assert [d.id for d in before] == [d.id for d in after]
    for old, new in zip(before, after):
        assert [(t.speaker, t.text, t.strategy, t.tags) for t in old.turns] == [
            (t.speaker, t.text, t.strategy, t.tags) for t in new.turns
        ]
        filled = [len(t.alternatives) for t in new.turns if t.speaker == "supporter"]
        if new.provenance["side"] == "train":
            assert max(filled) == 3 and sum(filled) >= 2 * len(filled)
        else:
            assert sum(filled) == 0
    assert reference.alternatives == sum(len(t.alternatives) for d in after for t in d.turns)
    alternative = next(t.alternatives[0] for d in after for t in d.turns if t.alternatives)
    assert alternative.provenance["source"] == "inpainted" and len(alternative.provenance["prompt_sha256"]) == 64


def test_datasets_loads_the_folder(reference: InpaintResult, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    loaded = datasets.load_dataset(str(reference.out), cache_dir=str(tmp_path))
    first = read_dialogues(reference.out / "train.jsonl", EXTES)[0]
    turn = next(i for i, turn in enumerate(first.turns) if turn.alternatives)
    theirs, ours = loaded["train"][0]["turns"][turn]["alternatives"][0], first.turns[turn].alternatives[0]
    assert (theirs["text"], theirs["provenance"]["seed"]) == (ours.text, ours.provenance["seed"])


def test_alternatives_differ(reference: InpaintResult) -> None:
    for dialogue in read_dialogues(reference.out / "dialogues.jsonl"):
        for turn in dialogue.turns:
            responses = [Response(turn.text), *(Response(a.text) for a in turn.alternatives)]
            for i, first in enumerate(responses):
                assert all(similarity(first, second) <= 0.6 for second in responses[i + 1 :])


def test_every_candidate_is_accounted_for(reference: InpaintResult) -> None:
    counts = reference.card["counts"]
    assert counts["alternatives_asked"] == counts["alternatives_kept"] + counts["alternatives_rejected"]
    assert counts["alternatives_rejected"] == sum(counts["rejected_by_reason"].values())
    assert counts["turns_asked"] == counts["turns_to_inpaint"]
    assert 0 < reference.card["measures"]["self_bleu_per_turn"] < 0.5


def test_resuming_and_concurrency_change_no_byte(
    source: Path, tmp_path: Path, teacher_url: str, reference: InpaintResult
) -> None:
    journal = (reference.out / "journal.jsonl").read_bytes()
    for concurrency, share in ((1, 0.0), (5, 0.4), (16, 0.9)):
        out = tmp_path / str(concurrency)
        out.mkdir()
        (out / "journal.jsonl").write_bytes(journal[: int(len(journal) * share)])
        inpaint(config(source, out), TeacherConfig(base_url=teacher_url, concurrency=concurrency))
        for name in ("dialogues.jsonl", "train.jsonl", "valid.jsonl", "card.json", "README.md", "quarantine.jsonl"):
            assert (out / name).read_bytes() == (reference.out / name).read_bytes(), name


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": "held"},
        {"strategy": "free", "verbalized": True},
        {"context": "both"},
        {"scope": "dialogue", "context": "both"},
    ],
)
def test_the_ways_of_asking(source: Path, tmp_path: Path, teacher: TeacherConfig, changes: dict[str, Any]) -> None:
    result = inpaint(config(source, tmp_path, **changes), teacher)
    counts = result.card["counts"]
    assert counts["alternatives_asked"] == counts["alternatives_kept"] + counts["alternatives_rejected"]
    dialogues = read_dialogues(tmp_path / "train.jsonl", EXTES)
    turns = [turn for d in dialogues for turn in d.turns if turn.speaker == "supporter"]
    assert sum(len(turn.alternatives) for turn in turns) >= 1.5 * len(turns)
    if changes.get("strategy") == "held":
        assert all(a.strategy == turn.strategy for turn in turns for a in turn.alternatives)
    if changes.get("verbalized"):
        assert all("probability" in a.provenance for turn in turns for a in turn.alternatives)


def completion(*texts: str, strategy: str = "affirmation") -> Completion:
    value = {"alternatives": [{"text": text, "strategy": strategy} for text in texts]}
    return Completion(json.dumps(value), "stop", 10, 10, parsed=value)


def planted() -> Dialogue:
    turns = [
        Turn("seeker", "I cannot sleep since the phone call."),
        Turn("supporter", "A call like that stays. What was said?", "clarification"),
        Turn("seeker", "My sister Anna is in hospital in Trondheim."),
        Turn("supporter", "That is frightening news.", "empathetic-statements"),
    ]
    return make_dialogue("academic-stress", "", turns)


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"context": "both"}, {"hindsight": 2, "conduct": 1, "crisis": 1, "near_copy": 1}),
        ({"context": "left"}, {"conduct": 1, "crisis": 1, "near_copy": 1}),
    ],
)
def test_planted_candidates_end_in_their_reasons(changes: dict[str, Any], reasons: dict[str, int]) -> None:
    settings = InpaintConfig(num_alternatives=6, oversample=1.0, strategy="free", **changes)
    work = Inpainting(settings, TeacherConfig(), load_prompts(None, EXTES), [planted()])
    record, _ = work.judge(
        work.plan()[0],
        "sha",
        completion(
            "Is your sister going to be all right, do you think?",
            "Trondheim is a long way to worry across.",
            "You have clinical depression, that is why sleep will not come.",
            "Did they speak of suicide on the telephone?",
            "A call like that stays with you. What was said?",
            "Nights after bad news are long; you are doing well to speak of it.",
        ),
    )
    assert record["reasons"] == reasons
    assert record["asked"] == 6 == sum(len(kept) for kept in record["kept"].values()) + sum(reasons.values())
    assert [entry["reason"] for entry in record["quarantined"]["1"]] == ["crisis"]


def test_a_held_strategy_and_a_missing_candidate_are_counted() -> None:
    settings = InpaintConfig(num_alternatives=3, oversample=1.0, strategy="held")
    work = Inpainting(settings, TeacherConfig(), load_prompts(None, EXTES), [planted()])
    record, _ = work.judge(work.plan()[0], "sha", completion("You are doing well to speak of it."))
    assert record["reasons"] == {"missing": 2, "not_held": 1} and record["kept"] == {}


def test_faults_and_unreadable_replies_are_counted(source: Path, tmp_path: Path) -> None:
    faults = FaultsConfig(rate_garbage=0.3, rate_refusal=0.2, rate_500=0.1)
    with background_server(ServeConfig(port=0, faults=faults)) as url:
        result = inpaint(config(source, tmp_path), TeacherConfig(base_url=url, concurrency=16, repair=False))
    counts = result.card["counts"]
    assert counts["alternatives_asked"] == counts["alternatives_kept"] + counts["alternatives_rejected"]
    assert result.reasons["refusal"] > 0 and len(read_dialogues(tmp_path / "dialogues.jsonl")) == 8
    items = [r["index"] for r in read_journal(tmp_path / "journal.jsonl") if r["kind"] == "reply"]
    assert sorted(items) == list(range(len(items)))


def test_a_cap_leaves_whole_dialogues(source: Path, tmp_path: Path, teacher: TeacherConfig) -> None:
    result = inpaint(config(source, tmp_path), replace(teacher, max_requests=5))
    assert result.stopped == "budget" and result.turns == 5
    assert len(read_dialogues(tmp_path / "dialogues.jsonl")) == 8


def test_shards_cover_the_data_once(source: Path, tmp_path: Path, teacher: TeacherConfig) -> None:
    ids: list[str] = []
    for i in range(2):
        inpaint(config(source, tmp_path / str(i), shard=f"{i}/2"), teacher)
        ids += [d.id for d in read_dialogues(tmp_path / str(i) / "dialogues.jsonl")]
    assert sorted(ids) == sorted(d.id for d in read_dialogues(source / "dialogues.jsonl"))


def test_imported_human_data(tmp_path: Path, teacher: TeacherConfig) -> None:
    """ESConv's own strategies, a dialogue that the supporter opens, no side, a turn without a label."""
    turns = [
        Turn("supporter", "Hello, how are you today?", "Question"),
        Turn("seeker", "Not good. My boss shouted at me before everyone."),
        Turn("supporter", "I am sorry, that must have stung."),
    ]
    esconv = load_taxonomy("esconv")
    turns[0].strategy = next(iter(esconv.strategies))
    dialogue = make_dialogue(next(iter(esconv.scenarios)), "A boss shouted.", turns, {"source": "esconv"})
    write_dialogues(tmp_path / "in.jsonl", [dialogue])
    changes = {"taxonomy": "esconv", "input": str(tmp_path / "in.jsonl")}
    inpaint(config(tmp_path, tmp_path / "out", **changes), teacher)
    (after,) = read_dialogues(tmp_path / "out" / "dialogues.jsonl", esconv)
    assert after.id == dialogue.id
    assert all(turn.alternatives for turn in after.turns if turn.speaker == "supporter")


def test_bad_input(source: Path, tmp_path: Path, teacher: TeacherConfig, reference: InpaintResult) -> None:
    with pytest.raises(ConfigError, match=r"inpaint\.in: is needed"):
        inpaint(InpaintConfig(out=str(tmp_path)), teacher)
    with pytest.raises(ConfigError, match="overwrite its own input"):
        inpaint(config(source, source), teacher)
    with pytest.raises(ConfigError, match='did you mean "train"'):
        inpaint(config(source, tmp_path, sides=["trai"]), teacher)
    with pytest.raises(RunDirError, match=r"inpaint\.num_alternatives: 3, now 2"):
        inpaint(config(source, reference.out, num_alternatives=2), teacher)
