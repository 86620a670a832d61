"""Generation against the loopback teacher: the same data at any concurrency, resumable, capped, told in a card."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_gen.config import FaultsConfig, FiltersConfig, GenerateConfig, ServeConfig, TeacherConfig
from data_gen.expansion import candidate_seed
from data_gen.generate import GenerateResult, generate
from data_gen.journal import read_journal
from data_gen.seed_dialogues import read_seeds
from data_gen.teacher.serve import background_server
from extes_train.dialogue.jsonl import read_dialogues
from extes_train.dialogue.leak import check_leak
from extes_train.dialogue.taxonomy import load_taxonomy
from extes_train.errors import ConfigError, RunDirError, TeacherError

SIDES = {"train": 0.6, "valid": 0.15, "test": 0.1, "base": 0.15}
FILES = ("dialogues.jsonl", "train.jsonl", "valid.jsonl", "test.jsonl", "base.jsonl", "quarantine.jsonl", "seeds.jsonl")


def config(out: Path, **changes: Any) -> GenerateConfig:
    return replace(GenerateConfig(out=str(out), num_dialogues=40, sides=SIDES, lag=16, round_size=20), **changes)


def files(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in (*FILES, "card.json", "README.md")}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, teacher_url: str) -> GenerateResult:
    out = tmp_path_factory.mktemp("reference")
    return generate(config(out), TeacherConfig(base_url=teacher_url, concurrency=16))


def test_the_data_keep_their_promises(reference: GenerateResult) -> None:
    extes = load_taxonomy("extes")
    dialogues = read_dialogues(reference.out / "dialogues.jsonl", extes)
    assert len(dialogues) == 40 and reference.accepted == 40 and reference.stopped == "size"
    assert reference.sides == {"train": 24, "valid": 6, "test": 4, "base": 6}
    by_side = {side: read_dialogues(reference.out / f"{side}.jsonl", extes) for side in SIDES}
    assert {side: len(found) for side, found in by_side.items()} == reference.sides
    check_leak(by_side)
    assert all(len(dialogue.turns) >= 10 for dialogue in dialogues)
    assert max(Counter(dialogue.scenario for dialogue in dialogues).values()) <= 4


def test_every_record_walks_back_to_its_exemplars(reference: GenerateResult) -> None:
    records = [json.loads(line) for line in (reference.out / "dialogues.jsonl").read_text().splitlines()]
    seeds = [json.loads(line) for line in (reference.out / "seeds.jsonl").read_text().splitlines()]
    side_of = {record["id"]: record["provenance"]["side"] for record in [*records, *seeds]}
    from_pool = 0
    for record in records:
        provenance = record["provenance"]
        assert len(provenance["exemplars"]) == 2 and len(provenance["prompt_sha256"]) == 64
        assert provenance["seed"] == candidate_seed(0, "0/1", provenance["candidate"])
        assert provenance["round"] == provenance["candidate"] // 20 and provenance["teacher"] == "offline-teacher"
        assert {side_of[exemplar] for exemplar in provenance["exemplars"]} == {provenance["side"]}
        from_pool += sum(exemplar not in {seed["id"] for seed in seeds} for exemplar in provenance["exemplars"])
    assert from_pool > 10


def test_any_concurrency_gives_the_same_bytes(tmp_path: Path, teacher_url: str, reference: GenerateResult) -> None:
    generate(config(tmp_path), TeacherConfig(base_url=teacher_url, concurrency=1))
    assert files(tmp_path) == files(reference.out)


def test_a_run_cut_anywhere_resumes_to_the_same_bytes(
    tmp_path: Path, teacher_url: str, reference: GenerateResult
) -> None:
    journal = (reference.out / "journal.jsonl").read_bytes()
    for share in (0.0005, 0.3, 0.77):
        out = tmp_path / str(share)
        out.mkdir()
        (out / "journal.jsonl").write_bytes(journal[: max(int(len(journal) * share), 1)])
        generate(config(out), TeacherConfig(base_url=teacher_url, concurrency=5))
        assert files(out) == files(reference.out)
        indices = [r["index"] for r in read_journal(out / "journal.jsonl") if r["kind"] == "reply"]
        assert len(indices) == len(set(indices))  # nothing was asked twice


def test_a_finished_run_asks_nothing(reference: GenerateResult) -> None:
    before = files(reference.out)
    nowhere = TeacherConfig(base_url="http://127.0.0.1:9/v1")
    again = generate(config(reference.out), nowhere)
    assert files(reference.out) == before and again.accepted == 40


def test_a_cap_is_a_clean_stop_and_a_higher_one_goes_on(
    tmp_path: Path, teacher_url: str, reference: GenerateResult
) -> None:
    capped = TeacherConfig(base_url=teacher_url, concurrency=4, max_requests=15)
    result = generate(config(tmp_path), capped)
    assert result.stopped == "budget" and "teacher.max_requests=15" in result.message
    assert 0 < result.accepted <= 15
    assert len(read_dialogues(tmp_path / "dialogues.jsonl")) == result.accepted
    asked = [r for r in read_journal(tmp_path / "journal.jsonl") if r["kind"] == "reply"]
    assert len(asked) == 15
    assert generate(config(tmp_path), capped).accepted == result.accepted
    assert generate(config(tmp_path), replace(capped, max_requests=None)).stopped == "size"
    assert files(tmp_path) == files(reference.out)


def test_faults_leave_the_data_complete(tmp_path: Path) -> None:
    rates = {"rate_429": 0.05, "rate_500": 0.05, "rate_reset": 0.03, "rate_truncated": 0.03, "rate_garbage": 0.02}
    faults = FaultsConfig(retry_after_s=0.05, rate_refusal=0.02, rate_length=0.02, rate_content_filter=0.02, **rates)
    with background_server(ServeConfig(port=0, faults=faults)) as url:
        result = generate(config(tmp_path, num_dialogues=60), TeacherConfig(base_url=url, concurrency=16))
    assert result.accepted == 60 and sum(result.sides.values()) == 60
    replies = [r for r in read_journal(tmp_path / "journal.jsonl") if r["kind"] == "reply"]
    assert sorted(r["index"] for r in replies) == list(range(result.candidates))
    assert result.accepted + sum(result.reasons.values()) == result.candidates
    assert set(result.reasons) <= {"refusal", "finish_length", "content_filter", "unreadable", "schema"}


def test_nonsense_ends_with_the_reason_why(tmp_path: Path) -> None:
    with background_server(ServeConfig(port=0, faults=FaultsConfig(rate_garbage=1.0))) as url:
        result = generate(config(tmp_path), TeacherConfig(base_url=url, concurrency=16, repair=False))
    assert result.accepted == 0 and result.stopped == "acceptance"
    assert "0 of 40 dialogues accepted out of 20 candidates" in result.message and "unreadable 20" in result.message
    assert (tmp_path / "dialogues.jsonl").read_bytes() == b""
    assert json.loads((tmp_path / "card.json").read_text())["counts"]["rejected_by_reason"] == {"unreadable": 20}


def test_crisis_is_set_aside_with_its_reason(tmp_path: Path, teacher: TeacherConfig, monkeypatch: Any) -> None:
    import data_gen.filters.chain as chain

    real = chain.crisis
    monkeypatch.setattr(
        chain,
        "crisis",
        lambda texts, view: "planted" if len(texts) > 1 and len(texts[0]) % 5 == 0 else real(texts, view),
    )
    result = generate(config(tmp_path), teacher)
    aside = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert len(aside) == result.reasons["crisis"] > 0 and {record["reason"] for record in aside} == {"crisis"}
    kept = {dialogue.id for dialogue in read_dialogues(tmp_path / "dialogues.jsonl")}
    assert not kept & {record["id"] for record in aside}
    assert result.accepted + sum(result.reasons.values()) == result.candidates


def test_near_duplicates_are_refused(tmp_path: Path, teacher: TeacherConfig) -> None:
    filters = FiltersConfig(near_duplicate=0.02)  # nearly everything is a near-duplicate now
    result = generate(config(tmp_path, filters=filters, max_candidates=60), teacher)
    assert result.reasons["near_duplicate"] > 10 and result.stopped in ("acceptance", "max_candidates")
    verdicts = [r for r in read_journal(tmp_path / "journal.jsonl") if r["kind"] == "verdict"]
    assert all(r["of"] for r in verdicts if r["verdict"] == "near_duplicate")
    assert (
        generate(config(tmp_path, filters=filters, max_candidates=60), teacher).reasons == result.reasons
    )  # replayed verdicts


def test_shards_have_their_own_randomness(tmp_path: Path, teacher: TeacherConfig) -> None:
    found: list[set[str]] = []
    for shard in ("0/2", "1/2"):
        out = tmp_path / shard[0]
        result = generate(config(out, num_dialogues=21, shard=shard), teacher)
        found.append({dialogue.id for dialogue in read_dialogues(out / "dialogues.jsonl")})
        assert result.accepted == (11 if shard == "0/2" else 10)
    assert not found[0] & found[1]
    seeds = [(tmp_path / i / "seeds.jsonl").read_bytes() for i in "01"]
    assert seeds[0] == seeds[1]  # the same seeds on the same sides
    with pytest.raises(ConfigError, match=r"generate.shard='2/2'"):
        generate(config(tmp_path / "x", shard="2/2"), teacher)


def test_targets(tmp_path: Path, teacher: TeacherConfig) -> None:
    target = tmp_path / "target.yaml"
    target.write_text("academic-stress: 3\nmanaging-bipolar-disorder: 1\n")
    result = generate(config(tmp_path / "a", num_dialogues=20, target=str(target), sides={"train": 1.0}), teacher)
    counts = {row["id"]: row["count"] for row in result.card["scenarios"] if row["count"]}
    assert counts == {"academic-stress": 15, "managing-bipolar-disorder": 5}
    published = load_taxonomy("extes").scenarios["breakups-or-divorce"].published_count
    result = generate(config(tmp_path / "b", num_dialogues=60, target="extes", sides={"train": 1.0}), teacher)
    counts = {row["id"]: row["count"] for row in result.card["scenarios"]}
    assert published is not None and abs(counts["breakups-or-divorce"] - 60 * published / 11183) <= 1
    target.write_text("academic-stres: 3\n")
    with pytest.raises(Exception, match='did you mean "academic-stress"'):
        generate(config(tmp_path / "c", target=str(target)), teacher)


def test_bad_endpoints_stop_at_once_and_lose_nothing(tmp_path: Path, teacher_url: str) -> None:
    with pytest.raises(TeacherError, match=r"127\.0\.0\.1:9/v1: cannot be reached"):
        generate(config(tmp_path), TeacherConfig(base_url="http://127.0.0.1:9/v1"))
    with pytest.raises(TeacherError, match=r"teacher\.model"):
        generate(config(tmp_path / "m"), TeacherConfig(base_url=teacher_url, model="offline-teachr"))
    assert generate(config(tmp_path), TeacherConfig(base_url=teacher_url)).accepted == 40


def test_a_folder_of_other_settings_is_refused(reference: GenerateResult, teacher: TeacherConfig) -> None:
    with pytest.raises(RunDirError, match=r"generate.seed: 0, now 1"):
        generate(config(reference.out, seed=1), teacher)


def test_the_card_sums(reference: GenerateResult) -> None:
    card = json.loads((reference.out / "card.json").read_text())
    counts = card["counts"]
    assert counts["accepted"] + counts["rejected"] == counts["candidates"]
    assert sum(counts["by_side"].values()) == counts["accepted"] == sum(r["count"] for r in card["scenarios"])
    assert sum(r["accepted"] for r in card["rounds"]) == counts["accepted"]
    assert sum(r["count"] for r in card["strategies"]) == card["measures"]["supporter_turns"]
    assert len(card["scenarios"]) == 36 and len(card["strategies"]) == 16
    shares = [r["count"] / card["measures"]["supporter_turns"] for r in card["strategies"]]
    entropy = -sum(p * math.log2(p) for p in shares if p)
    assert abs(entropy - card["measures"]["strategy_entropy_bits"]) < 1e-3
    text = (reference.out / "README.md").read_text()
    assert "Synthetic, not clinical" in text and "no language model" in text and "published share" in text
    assert sum(len(read_seeds(None, load_taxonomy("extes"))) for _ in "1") == sum(counts["seeds_by_side"].values())


def test_the_folder_loads_with_datasets(
    reference: GenerateResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    loaded = datasets.load_dataset(str(reference.out), cache_dir=str(tmp_path))
    assert {split: len(rows) for split, rows in loaded.items()} == {
        "train": 24,
        "validation": 6,
        "test": 4,
        "base": 6,
    }
    assert loaded["train"][0]["turns"][1]["strategy"]


def test_batches_give_the_same_bytes(tmp_path: Path, teacher: TeacherConfig, reference: GenerateResult) -> None:
    """The Batch API asks in lots of at most `lag`; what comes out is the same."""
    generate(config(tmp_path, mode="batch", batch_poll_s=0.02), teacher)
    assert files(tmp_path) == files(reference.out)
