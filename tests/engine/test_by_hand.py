"""A process started by hand is a group of one, without a launcher's variables; bf16 and CPU offload in it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from engine.test_zero import config_for, learning_rate, plain_run, step_rows, tuned_model

from extes_train.engine.config import DistributedConfig
from extes_train.model.batch import row_batch_from_arrays
from extes_train.model.config import ModelConfig


@pytest.mark.filterwarnings("ignore")  # DeepSpeed's and torch's remarks, in this process for once
def test_bf16_and_offload_in_a_group_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from extes_train.engine.engine import build_engine
    from extes_train.engine.process_group import process_group

    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOCAL_RANK", "0")  # so that what the group sets is undone
    monkeypatch.delenv("LOCAL_RANK")
    want = plain_run("full")[0][:6]
    with process_group(DistributedConfig(timeout_s=60)) as group:
        assert (group.rank, group.world_size, group.gather("x"), group.broadcast(3)) == (0, 1, ["x"], 3)
        for stage, dtype, offload, tolerance in ((2, "bf16", "none", 2e-3), (3, "fp32", "cpu", 1e-5)):
            config = config_for(stage, "full")
            zero = dataclasses.replace(
                config.zero, offload_optimizer=offload, offload_parameters=offload if stage == 3 else "none"
            )
            model = tuned_model("full")
            model = model.bfloat16() if dtype == "bf16" else model
            engine = build_engine(model, dataclasses.replace(config, zero=zero, model=ModelConfig(dtype=dtype)), group)
            losses = []
            for step in range(len(want)):
                batches = [row_batch_from_arrays(row) for rank in step_rows(step) for row in rank]
                weight, total = sum(float(batch.weight_Q.sum()) for batch in batches), 0.0
                for index, batch in enumerate(batches):
                    loss = engine.loss(batch)[0] / weight
                    engine.backward(loss, is_boundary=index == len(batches) - 1)
                    total += float(loss.detach())
                engine.step(learning_rate(step))
                losses.append(total)
            engine.close()
            np.testing.assert_allclose(losses, want, rtol=tolerance, err_msg=f"stage {stage} {dtype} {offload}")
