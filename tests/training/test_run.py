"""Whole runs on one process, in this process: metrics, budgets, resumption, the final model."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from training.tiny import metrics, overrides, weights

from extes_train.dialogue.files import read_json
from extes_train.errors import Interrupted, Requeue, RunDirError, TrainingError, UserError
from extes_train.train import main
from extes_train.training import loop, step_data

KEYS = (
    "step loss lr grad_norm tokens targets weight seconds tokens_per_s memory_bytes flat_tokens pairs flat_pairs "
    "tflops_per_s flat_tflops_per_s"
)


@pytest.fixture(scope="module")
def finished(tiny: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 steps with dropout, alternatives and held-out measures, never interrupted."""
    run = tmp_path_factory.mktemp("finished") / "run"
    main(dri(tiny, run))
    return run


def dri(tiny: dict[str, str], run: Path, *more: str) -> list[str]:
    """LoRA with dropout, so that random generators matter."""
    lora = ["augmentation=dri", "tuning=lora", "tuning.dropout=0.2", "evaluation.every_steps=3"]
    return overrides(tiny, run, *lora, *more)


@pytest.fixture
def stop_at() -> Iterator[Any]:
    """`stop_at(step, action)` runs `action` once, when step `step` (from 0) is about to be trained."""
    patch, pending = pytest.MonkeyPatch(), []

    def install(step: int, action: Any) -> None:
        original = loop.train_step
        pending.append(action)

        def acting(engine: Any, share: step_data.Share, weight: float, lr: float) -> Any:
            if share.step == step and pending:
                pending.pop()()
            return original(engine, share, weight, lr)

        patch.setattr(loop, "train_step", acting)

    yield install
    patch.undo()


def assert_same_weights(first: Path, second: Path) -> None:
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    different = [name for name in one if not one[name].equal(other[name])]
    assert not different, different


def test_a_run_leaves_all_its_files(finished: Path) -> None:
    lines = metrics(finished)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert list(lines[0]) == KEYS.split()
    assert all(math.isfinite(value) for line in lines for value in line.values())
    assert lines[0]["weight"] == lines[0]["targets"], "token weighting, alternatives weigh 1"
    assert lines[0]["flat_tokens"] > lines[0]["tokens"] > lines[0]["targets"]
    cost = read_json(finished / "cost.json")
    assert (cost["steps"], cost["dialogues"]) == (6, 24)
    assert cost["targets"] == sum(line["targets"] for line in lines)
    assert cost["tokens"] == sum(line["tokens"] for line in lines)
    assert 0 < cost["trainable_parameters"] < cost["parameters"]
    assert cost["peak_memory_bytes"] > 1e6
    assert os.readlink(finished / "checkpoints" / "latest") == "step-6"
    heldout = metrics_of(finished / "heldout.jsonl")
    assert [line["step"] for line in heldout] == [3, 6]
    assert heldout[1]["perplexity"] == pytest.approx(math.exp(heldout[1]["nll"] / heldout[1]["targets"]))
    assert (finished / "model" / "README.md").is_file()


def metrics_of(path: Path) -> list[dict[str, Any]]:
    import json

    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_interrupted_run_ends_as_one_that_was_not(
    finished: Path, tiny: dict[str, str], tmp_path: Path, stop_at: Any
) -> None:
    run = tmp_path / "run"
    stop_at(2, lambda: os.kill(os.getpid(), signal.SIGUSR2))
    with pytest.raises(Requeue, match="SIGUSR2: checkpointed at step 3"):
        main(dri(tiny, run))
    assert (run / "requeue").read_text() == "3\n"
    main(dri(tiny, run))
    assert not (run / "requeue").exists()
    assert [line["step"] for line in metrics(run)] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] for line in metrics(run)] == [line["loss"] for line in metrics(finished)]
    assert_same_weights(run, finished)
    assert read_json(run / "cost.json")["targets"] == read_json(finished / "cost.json")["targets"]


def test_a_crash_resumes_at_the_checkpoint_before_it_and_ignores_a_torn_one(
    finished: Path, tiny: dict[str, str], tmp_path: Path, stop_at: Any, capfd: Any
) -> None:
    run = tmp_path / "run"

    def crash() -> None:
        raise MemoryError("gone")

    stop_at(4, crash)
    with pytest.raises(MemoryError):
        main(dri(tiny, run, "checkpoint.every_steps=2"))
    (run / "checkpoints" / "step-5").mkdir()
    main(dri(tiny, run, "checkpoint.every_steps=2"))
    assert "step-5: was never completed; ignored" in capfd.readouterr().err
    assert [line["step"] for line in metrics(run)] == [1, 2, 3, 4, 5, 6]
    assert_same_weights(run, finished)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["latest", "step-4", "step-6"]


def test_ctrl_c_checkpoints_and_says_so(command: list[str], tmp_path: Path, stop_at: Any) -> None:
    stop_at(1, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted, match="SIGINT at step 2"):
        main(command)
    assert (tmp_path / "run" / "checkpoints" / "step-2" / "COMPLETED").is_file()
    assert not (tmp_path / "run" / "requeue").exists()


def test_a_finished_run_trains_nothing_more_and_another_configuration_is_refused(
    finished: Path, tiny: dict[str, str]
) -> None:
    before = weights(finished)
    main(dri(tiny, finished))
    assert all(tensor.equal(before[name]) for name, tensor in weights(finished).items())
    assert len(metrics(finished)) == 6
    with pytest.raises(RunDirError, match=r"optim\.lr: 0\.001 there, 0\.01 now"):
        main(dri(tiny, finished, "optim.lr=0.01"))


@pytest.mark.parametrize(
    "change",
    [["tokens.tokens_per_row=192"], ["tokens.layout=flat"], ["tokens.layout=flat", "tokens.flat=per_response"]],
    ids=["short rows", "multi_turn", "per_response"],
)
def test_the_loss_curve_is_the_same_for_rows_and_layouts(
    tiny: dict[str, str], tmp_path: Path, reference_curve: list[float], change: list[str]
) -> None:
    main(overrides(tiny, tmp_path / "run", "augmentation=dri", *change))
    assert [line["loss"] for line in metrics(tmp_path / "run")] == pytest.approx(reference_curve, rel=2e-5)


@pytest.fixture(scope="module")
def reference_curve(tiny: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Losses of the tree layout."""
    run = tmp_path_factory.mktemp("reference") / "run"
    main(overrides(tiny, run, "augmentation=dri"))
    return [line["loss"] for line in metrics(run)]


def test_stage_0_in_bf16_trains_as_stage_1_and_says_so(tiny: dict[str, str], tmp_path: Path, capsys: Any) -> None:
    for stage in (0, 1):
        main(overrides(tiny, tmp_path / str(stage), f"zero=zero{stage}", "model.dtype=bf16", "optim.max_steps=4"))
        said = capsys.readouterr().err
        assert ("zero.stage=0 runs as stage 1 in bf16" in said) == (stage == 0)
    got, want = metrics(tmp_path / "0"), metrics(tmp_path / "1")
    for key in ("loss", "grad_norm"):
        assert [line[key] for line in got] == [line[key] for line in want]
    last = weights(tmp_path / "1")
    assert all(weight.equal(last[name]) for name, weight in weights(tmp_path / "0").items())
    main(overrides(tiny, tmp_path / "fp32", "optim.max_steps=4"))
    losses = [line["loss"] for line in metrics(tmp_path / "fp32")]
    assert [line["loss"] for line in got] == pytest.approx(losses, rel=5e-3)  # bf16 has 8 bits


def test_budgets_end_a_run(command: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    main([*command, "optim.max_steps=null", "optim.max_targets=1000", "optim.epochs=1000000"])
    lines = metrics(run)
    assert sum(line["targets"] for line in lines[:-1]) < 1000 <= sum(line["targets"] for line in lines)
    assert lines[-1]["lr"] < lines[1]["lr"], "the schedule follows the targets"


def test_seconds_and_epochs(tiny: dict[str, str], tmp_path: Path) -> None:
    main(overrides(tiny, tmp_path / "s", "optim.max_steps=null", "optim.max_seconds=0.5"))
    assert read_json(tmp_path / "s" / "cost.json")["train_seconds"] == pytest.approx(0.5, abs=0.4)
    main(overrides(tiny, tmp_path / "e", "optim.max_steps=null", "optim.epochs=2", "debug.log_every_steps=4"))
    cost = read_json(tmp_path / "e" / "cost.json")
    assert cost["dialogues"] % 2 == 0 and cost["steps"] == math.ceil(cost["dialogues"] / 4)
    lines = metrics(tmp_path / "e")
    assert sum(line["targets"] for line in lines) == cost["targets"]
    assert [line["step"] for line in lines] == [4, cost["steps"]]


def test_overfit_goes_to_zero(command: list[str], tmp_path: Path) -> None:
    main([*command, "debug=overfit", "optim.max_steps=120", "optim.lr=0.02", "optim.dialogues_per_step=1"])
    assert metrics(tmp_path / "run")[-1]["loss"] < 0.1 * metrics(tmp_path / "run")[0]["loss"]


def test_overfit_that_does_not_is_an_error(command: list[str]) -> None:
    with pytest.raises(TrainingError, match="debug=overfit"):
        main([*command, "debug=overfit", "optim.max_steps=2"])


def test_a_loss_that_is_not_finite_is_an_error(command: list[str], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"step \d+: (loss|grad_norm) is (nan|inf)"):
        main([*command, "optim.lr=1e30", "optim.clip_norm=null", "optim.warmup_steps=0", "optim.max_steps=20"])


def test_nothing_to_learn_is_an_error(command: list[str]) -> None:
    with pytest.raises(UserError, match="target"):
        main([*command, "model.context_length=8"])


def test_show_prints_one_sample_and_stops(command: list[str], tmp_path: Path, capsys: Any) -> None:
    main([*command, "debug=show"])
    assert "Supporter" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"debug\.sample_index=999"):
        main([*command, "debug=show", "debug.sample_index=999"])


def test_the_configuration_can_be_printed_without_torch(root: Path) -> None:
    import subprocess

    program = (
        "import sys; from extes_train.train import main; main(['--cfg', 'job', 'seed=5']); "
        "assert not {'torch', 'transformers', 'deepspeed'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=60)
    assert "seed: 5" in done.stdout, done.stderr
