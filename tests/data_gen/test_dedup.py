"""Near-duplicates: every pair above the threshold is found, none below, and the answer is fast and repeatable."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data_gen.dedup import Ids, NearDuplicates, Novelty, bands_for, jaccard, shingle_hashes
from data_gen.filters.text import TextView
from extes_train.dialogue.shingles import jaccard as exact_jaccard
from extes_train.dialogue.shingles import word_shingles

WORDS = [f"w{i}" for i in range(400)]


def texts(rng: random.Random) -> list[str]:
    return [" ".join(rng.choices(WORDS, k=20)) for _ in range(12)]


def changed(original: list[str], share: float, rng: random.Random) -> list[str]:
    return [" ".join(rng.choice(WORDS) if rng.random() < share else w for w in text.split()) for text in original]


def test_verdicts_agree_with_the_exact_definition() -> None:
    rng = random.Random(0)
    found = NearDuplicates(0.7)
    kept: dict[str, list[str]] = {}
    for i in range(60):
        kept[str(i)] = texts(rng)
        found.add(str(i), shingle_hashes(TextView(kept[str(i)])))
    missed = 0
    for i in range(60):
        for share in (0.02, 0.06, 0.1, 0.2, 0.5):
            other = changed(kept[str(i)], share, rng)
            similarity = exact_jaccard(word_shingles("\n".join(kept[str(i)])), word_shingles("\n".join(other)))
            hashes = shingle_hashes(TextView(other))
            assert abs(jaccard(hashes, shingle_hashes(TextView(kept[str(i)]))) - similarity) < 1e-9
            answer = found.find(hashes)
            if similarity < 0.7:
                assert answer is None
            elif answer is None:
                missed += 1
            else:
                assert answer[0] == str(i) and abs(answer[1] - similarity) < 1e-9
    assert missed <= 1
    assert found.find(shingle_hashes(TextView([]))) is None


def test_a_query_with_hashing_is_fast() -> None:
    rng = np.random.default_rng(0)
    found = NearDuplicates(0.7)
    for i in range(3000):
        found.add(str(i), np.unique(rng.integers(0, 2**32, 350, dtype=np.uint32)))
    choose, seconds = random.Random(1), []
    for _ in range(200):
        dialogue = texts(choose)
        started = time.perf_counter()
        found.find(shingle_hashes(TextView(dialogue)))
        seconds.append(time.perf_counter() - started)
    assert sorted(seconds)[100] < 0.002


def test_hashes_do_not_depend_on_the_process(root: Path) -> None:
    code = "from data_gen.filters.text import TextView; print(TextView(['a b c d']).shingles().tolist())"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, cwd=root, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert seen == {f"{TextView(['a b c d']).shingles().tolist()}\n".encode()}


def test_novelty_is_the_share_of_unseen_shingles() -> None:
    rng = np.random.default_rng(0)
    shingles = np.unique(rng.integers(0, 2**32, 4000, dtype=np.uint32))
    novelty = Novelty()
    assert novelty.add(shingles) == 1.0
    assert novelty.add(shingles) == 0.0
    half = np.unique(np.concatenate([shingles[::2], rng.integers(0, 2**32, 2000, dtype=np.uint32)]))
    assert abs(novelty.add(half) - 0.5) < 0.05  # a quarter of them is looked at


def test_ids_are_a_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ids, "NEWEST", 7)
    ids, expected, rng = Ids(), set(), np.random.default_rng(1)
    for value in [0, 2**64 - 1, *rng.integers(0, 2**64, 100, dtype=np.uint64).tolist()]:
        assert (value in ids) == (value in expected)
        if value not in ids:
            ids.add(value)
            expected.add(value)
        assert value in ids and value ^ 1 not in ids
    assert all(value in ids for value in expected)


def test_bands_follow_the_threshold() -> None:
    assert bands_for(0.7) == (25, 5)
    for threshold in (0.3, 0.5, 0.8, 0.95):
        bands, rows = bands_for(threshold)
        assert 1 - (1 - threshold**rows) ** bands >= 0.985 and bands * rows <= 125
