"""A resumed engine goes on as if it had never stopped, also on another number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine.test_zero import config_for, step_rows, tuned_model
from support import gloo_run

from extes_train.engine.config import DistributedConfig
from extes_train.errors import RunDirError
from extes_train.model.batch import row_batch_from_arrays

CASES = [(0, "lora"), (1, "full"), (2, "full"), (2, "lora"), (3, "full"), (3, "lora")]
SPLIT, STEPS = 3, 6


def train_any(engine: Any, group: Any, steps: range) -> list[float]:
    """The losses of the steps; all rows of a step, dealt to however many ranks there are."""
    losses = []
    for step in steps:
        rows = [row for rank in step_rows(step) for row in rank]
        weight = sum(sum(row.weight_Q) for row in rows)
        mine, total = rows[group.rank :: group.world_size], 0.0
        for index, row in enumerate(mine):
            loss = engine.loss(row_batch_from_arrays(row))[0] / weight
            engine.backward(loss, is_boundary=index == len(mine) - 1)
            total += float(loss.detach())
        engine.step(2e-3)
        losses.append(group.sum([total])[0])
    return losses


def resumed(folder: Path, stage: int, tuning: str, group: Any) -> tuple[list[float], dict[str, torch.Tensor] | None]:
    from extes_train.engine.engine import build_engine

    engine = build_engine(tuned_model(tuning), config_for(stage, tuning), group)
    engine.load(folder / f"{stage}-{tuning}", "engine")
    losses = train_any(engine, group, range(SPLIT, STEPS))
    state = engine.full_state_dict()
    engine.close()
    return losses, state


def two_ranks(folder: str) -> dict[str, Any]:
    from extes_train.engine.engine import build_engine
    from extes_train.engine.process_group import process_group

    results: dict[str, Any] = {}
    with process_group(DistributedConfig(timeout_s=60)) as group:
        for stage, tuning in CASES:
            engine = build_engine(tuned_model(tuning), config_for(stage, tuning), group)
            train_any(engine, group, range(SPLIT))
            engine.save(Path(folder) / f"{stage}-{tuning}", "engine")
            whole = train_any(engine, group, range(SPLIT, STEPS))
            state = engine.full_state_dict()
            engine.close()
            again, state_again = resumed(Path(folder), stage, tuning, group)
            same = state is None or all(torch.equal(state[n], state_again[n]) for n in state)  # type: ignore[index]
            results[f"{stage} {tuning}"] = (whole, again, same, {n: w.numpy() for n, w in (state or {}).items()})
    return results


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    folder = tmp_path_factory.mktemp("engine")
    return gloo_run(two_ranks, 2, str(folder)), folder


def test_the_same_ranks_go_on_exactly(saved: tuple[list[dict[str, Any]], Path]) -> None:
    for rank in saved[0]:
        for case, (whole, again, same, _) in rank.items():
            assert whole == again and same, case


def one_rank(folder: str) -> dict[str, Any]:
    from extes_train.engine.engine import build_engine
    from extes_train.engine.process_group import process_group

    results: dict[str, Any] = {}
    with process_group(DistributedConfig(timeout_s=60)) as group:
        for stage, tuning in CASES:
            losses, state = resumed(Path(folder), stage, tuning, group)
            results[f"{stage} {tuning}"] = (losses, {n: w.numpy() for n, w in (state or {}).items()})
        engine = build_engine(tuned_model("full"), config_for(1, "full"), group)
        for where, message in (("2-full", "written with zero.stage=2"), ("nowhere", "no engine checkpoint")):
            with pytest.raises(RunDirError, match=message):
                engine.load(Path(folder) / where, "engine")
    return results


def test_another_number_of_ranks_goes_on(saved: tuple[list[dict[str, Any]], Path]) -> None:
    ranks, folder = saved
    (results,) = gloo_run(one_rank, 1, str(folder))
    for case, (losses, state) in results.items():
        whole, _, _, weights = ranks[0][case]
        np.testing.assert_allclose(losses, whole, rtol=1e-4, err_msg=case)
        assert state.keys() == weights.keys()
        for name, weight in weights.items():
            np.testing.assert_allclose(state[name], weight, rtol=1e-3, atol=2e-5, err_msg=f"{case} {name}")
