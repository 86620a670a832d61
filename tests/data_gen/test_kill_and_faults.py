"""kill -9 at random moments, and a bad day of 2,000 requests. Minutes: marked `faults`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from data_gen.config import FaultsConfig, GenerateConfig, ServeConfig, TeacherConfig
from data_gen.generate import generate
from data_gen.journal import read_journal
from data_gen.teacher.serve import background_server
from extes_train.dialogue.jsonl import read_dialogues

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "kill_resume.py"
    spec = importlib.util.spec_from_file_location("kill_resume", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("concurrency", [1, 8, 64])
def test_a_killed_generation_ends_byte_equal(
    benchmark: ModuleType, tmp_path: Path, teacher_url: str, concurrency: int
) -> None:
    found = benchmark.kill_and_resume(
        "generate", concurrency, 4, 120, teacher_url, tmp_path, tmp_path, seed=concurrency
    )
    assert found["byte_equal"] == found["kills"] == 4 and found["journalled_twice"] == 0, found


def test_a_killed_inpainting_ends_byte_equal(benchmark: ModuleType, tmp_path: Path, teacher_url: str) -> None:
    source = tmp_path / "source"
    generate(GenerateConfig(out=str(source), num_dialogues=30), TeacherConfig(base_url=teacher_url))
    found = benchmark.kill_and_resume("inpaint", 8, 4, 30, teacher_url, tmp_path, source)
    assert found["byte_equal"] == found["kills"] == 4 and found["journalled_twice"] == 0, found


def test_a_fifth_of_2000_requests_fails_and_no_record_is_lost(tmp_path: Path) -> None:
    rates = {f"rate_{name}": 0.02 for name in ("429", "500", "hang", "reset", "truncated", "garbage", "refusal")}
    faults = FaultsConfig(**rates, rate_length=0.03, rate_content_filter=0.03, retry_after_s=0.2, hang_s=2.0)
    config = GenerateConfig(out=str(tmp_path), num_dialogues=2000, min_acceptance=0.0)
    with background_server(ServeConfig(port=0, faults=faults)) as url:
        result = generate(config, TeacherConfig(base_url=url, concurrency=64, timeout_s=1.0))
    assert result.accepted == 2000 == len(read_dialogues(tmp_path / "dialogues.jsonl"))
    assert result.accepted + sum(result.reasons.values()) == result.candidates
    indices = [r["index"] for r in read_journal(tmp_path / "journal.jsonl") if r["kind"] == "reply"]
    assert sorted(indices) == list(range(result.candidates))
    assert {"refusal", "finish_length", "content_filter"} <= set(result.reasons)
