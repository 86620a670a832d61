"""benchmarks/gpu.py from end to end on a CPU, at a tiny size; what it does when memory is short or a case fails."""

from __future__ import annotations

import json
import math
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import gpu
from benchmarks.gpu_step import difference, first_that_fits


@pytest.fixture(scope="module")
def rehearsal() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of torch's tracing
        return gpu.main(["--rehearse"])


def test_every_case_of_the_rehearsal_is_measured(rehearsal: dict[str, Any]) -> None:
    assert json.loads(json.dumps(rehearsal))["benchmark"] == "gpu" and rehearsal["rehearsal"] is True
    cases = rehearsal["cases"]
    kinds = [(case["tuning"], case["compiled"], case["alternatives"]) for case in cases]
    assert kinds == [(t, c, n) for c in (False, True) for t in ("lora", "full") for n in (0, 4)]
    for case in cases:
        assert "error" not in case and "skipped" not in case and "out_of_memory" not in case, case
        for layout in ("tree", "flat") if case["alternatives"] else ("tree",):
            found = case[layout]
            assert found["tokens"] > found["targets"] > 0 and found["rows"] >= 1 and found["rounds"] >= 1
            assert found["forward"] > 0 and found["backward"] > 0 and found["optimizer"] > 0
            parts = found["forward"] + found["backward"] + found["optimizer"]
            assert found["seconds"] == pytest.approx(parts) and found["host_seconds"] > 0
            assert found["tokens_per_s"] == pytest.approx(found["tokens"] / found["seconds"])
            assert abs(found["loss"] - math.log(2048)) < 0.5  # random weights know nothing
            assert found["tflops_per_s"] > 0 and found["attention"]


def test_the_speed_up_is_of_equal_work(rehearsal: dict[str, Any]) -> None:
    for case in rehearsal["cases"]:
        if case["alternatives"]:
            tree, flat = case["tree"], case["flat"]
            assert tree["targets"] == flat["targets"] and case["same_work"]
            assert case["token_ratio"] == pytest.approx(flat["tokens"] / tree["tokens"]) and case["token_ratio"] > 1.5
            assert case["effective_speedup"] == pytest.approx(flat["seconds"] / tree["seconds"])
            assert case["loss_diff"] < 1e-3 and 0 < case["grad_diff"] < 0.05


def test_backends_by_length_of_row(rehearsal: dict[str, Any]) -> None:
    measured = {case["attention"] for case in rehearsal["backends"] if case.get("milliseconds", 0) > 0}
    skipped = {case["attention"] for case in rehearsal["backends"] if "skipped" in case}
    assert measured == {"structured", "sdpa"} and skipped == {"varlen", "flex"}  # the latter have no CPU kernels


def test_checkpointing_is_the_same_step(rehearsal: dict[str, Any]) -> None:
    """What a case does when memory is short."""
    options = gpu.parse(["--rehearse"])
    run = gpu.prepare(options)
    model = gpu.build_model(run, "tiny", "lora")
    found = [gpu.compare_layouts(run, model, 0, gpu.Setting(on, 1024)) for on in (False, True)]
    assert found[0]["tree"]["loss"] == pytest.approx(found[1]["tree"]["loss"], rel=1e-3)
    assert found[1]["checkpointing"] is True
    assert found[0]["tree"]["loss"] == pytest.approx(rehearsal["cases"][0]["tree"]["loss"], rel=1e-3)


def test_what_does_not_fit_is_tried_smaller() -> None:
    def attempt(size: int) -> str:
        if size > 2:
            raise torch.OutOfMemoryError("planted")
        return f"size {size}"

    assert first_that_fits([8, 4, 2, 1], attempt, torch.device("cpu")) == ("size 2", [8, 4])
    with pytest.raises(torch.OutOfMemoryError, match="none of"):
        first_that_fits([8, 4], attempt, torch.device("cpu"))


def test_a_case_that_fails_loses_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    run = gpu.Run(torch.device("cpu"), None, {}, gpu.parse(["--rehearse"]), math.inf)

    def broken(_: dict[str, Any]) -> None:
        raise RuntimeError("planted\nfailure")

    assert gpu.attempt_case(run, {"shape": "tiny"}, broken)["error"] == "RuntimeError: planted failure"
    assert json.loads(capsys.readouterr().err)["shape"] == "tiny"
    run.ends = 0.0
    late = gpu.attempt_case(run, {}, broken)
    assert late["skipped"].startswith("no time left") and "error" not in late


def test_differences() -> None:
    want = [torch.ones(4), torch.zeros(3), torch.full((1,), 10.0)]
    got = [torch.full((4,), 1.5), torch.zeros(3), torch.full((1,), 10.0)]
    found = difference(got, want)
    assert found["max_grad_diff"] == pytest.approx(0.5) and found["grad_diff"] == pytest.approx(1 / 104**0.5)
