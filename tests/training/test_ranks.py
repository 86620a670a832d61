"""Two processes: the same losses as one, and a checkpoint that one process goes on from."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from support import gloo_run
from training.tiny import metrics, overrides, weights

from extes_train.errors import Requeue


def train_on_this_rank(arguments: list[str], stop_after: int | None = None) -> str:
    """One rank: train; with `stop_after`, rank 1 alone gets SIGTERM in that step."""
    from extes_train.environment import rank_variables
    from extes_train.train import main
    from extes_train.training import loop

    original = loop.train_step

    def acting(engine: object, share: object, weight: float, lr: float) -> object:
        if share.step + 1 == stop_after and rank_variables().rank == 1:  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGTERM)
        return original(engine, share, weight, lr)  # type: ignore[arg-type]

    loop.train_step = acting  # type: ignore[assignment]
    try:
        main(arguments)
    except Requeue as error:
        return str(error)
    return "done"


def test_two_ranks_learn_what_one_does_and_one_goes_on_where_two_stopped(tiny: dict[str, str], tmp_path: Path) -> None:
    common = ["augmentation=dri", "zero=zero2", "tokens.tokens_per_row=192", "evaluation.every_steps=3"]
    from extes_train.train import main

    main(overrides(tiny, tmp_path / "one", *common))
    stopped = gloo_run(train_on_this_rank, 2, overrides(tiny, tmp_path / "two", *common), 4)
    assert stopped[1] == "SIGTERM: checkpointed at step 4, to be started again"
    assert "a signal on another rank: checkpointed at step 4" in stopped[0]
    assert (tmp_path / "two" / "requeue").read_text() == "4\n"
    main(overrides(tiny, tmp_path / "two", *common))

    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert [line["step"] for line in two] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-5)
    assert [line["grad_norm"] for line in two] == pytest.approx([line["grad_norm"] for line in one], rel=1e-4)
    alone, resumed = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, tensor in alone.items():
        assert resumed[name] == pytest.approx(tensor.numpy(), abs=2e-5), name


def test_partitioned_ranks_learn_what_whole_ones_do(tiny: dict[str, str], tmp_path: Path) -> None:
    """ZeRO-3, weights read into partitions: stopped, resumed, saved."""
    from extes_train.train import main

    common = ["tuning=dora", "tuning.r=4", "evaluation.every_steps=3", "model.gradient_checkpointing=true"]
    partitioned = [
        "zero=zero3", "zero.stage3_param_persistence_threshold=0", "zero.stage3_max_live_parameters=0",
        "zero.stage3_max_reuse_distance=0",
    ]  # fmt: skip
    main(overrides(tiny, tmp_path / "whole", *common, "zero=zero2"))
    arguments = overrides(tiny, tmp_path / "parts", *common, *partitioned)
    stopped = gloo_run(train_on_this_rank, 2, arguments, 4)
    assert stopped[1] == "SIGTERM: checkpointed at step 4, to be started again"
    assert gloo_run(train_on_this_rank, 2, arguments) == ["done", "done"]

    whole, parts = metrics(tmp_path / "whole"), metrics(tmp_path / "parts")
    for key in ("loss", "grad_norm"):
        assert [line[key] for line in parts] == pytest.approx([line[key] for line in whole], rel=1e-4)
    want, got = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert want.keys() == got.keys() and any("magnitude" in name for name in want)
    for name, tensor in want.items():
        assert got[name] == pytest.approx(tensor.numpy(), abs=2e-5), name


def test_ranks_of_different_configurations_stop(tiny: dict[str, str], tmp_path: Path) -> None:
    errors = gloo_run(train_with_own_seed, 2, overrides(tiny, tmp_path / "run"))
    assert all("ranks 1 have another configuration" in error for error in errors)


def train_with_own_seed(arguments: list[str]) -> str:
    """Every rank with a seed of its own."""
    from extes_train.environment import rank_variables
    from extes_train.errors import TrainingError
    from extes_train.train import main

    try:
        main([*arguments, f"seed={rank_variables().rank}"])
    except TrainingError as error:
        return str(error)
    return "trained"
