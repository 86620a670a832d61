"""A rank that hangs: the others wait for `distributed.timeout_s`, in the groups that DeepSpeed makes too."""

from __future__ import annotations

import dataclasses
import threading

import pytest
from engine.test_zero import config_for, step_rows, tuned_model
from support import gloo_run

from extes_train.engine.config import DistributedConfig
from extes_train.engine.engine import build_engine
from extes_train.engine.process_group import process_group
from extes_train.model.batch import row_batch_from_arrays


def one_rank_stays_away(stage: int) -> str:
    """Rank 0 trains, rank 1 does not come."""
    config = dataclasses.replace(config_for(stage, "full"), distributed=DistributedConfig(timeout_s=2))
    with process_group(config.distributed) as group:
        engine = build_engine(tuned_model("full"), config, group)
        if group.rank == 1:
            threading.Event().wait(6)
            return "stayed away"
        with pytest.raises(RuntimeError) as caught:
            loss, _ = engine.loss(row_batch_from_arrays(step_rows(1)[0][0], "cpu"))
            engine.backward(loss, is_boundary=True)
            engine.step(1e-3)
        return str(caught.value)


@pytest.mark.parametrize("stage", [2, 3])
def test_nobody_waits_longer_than_told(stage: int) -> None:
    waited, _ = gloo_run(one_rank_stays_away, 2, stage, timeout_s=60)
    assert "2000ms" in waited, waited
