"""Our sections become DeepSpeed's keys; what DeepSpeed would get wrong is refused."""

from __future__ import annotations

import pytest
import torch

from extes_train.engine import process_group as groups
from extes_train.engine.config import DistributedConfig, OptimConfig, ZeroConfig
from extes_train.engine.deepspeed_config import deepspeed_config
from extes_train.errors import ConfigError, TrainingError


def test_keys_of_a_stage_2_run() -> None:
    got = deepspeed_config(ZeroConfig(stage=2), OptimConfig(clip_norm=0.5), "fp32", world_size=4)
    sizes = got["train_batch_size"], got["train_micro_batch_size_per_gpu"], got["gradient_accumulation_steps"]
    assert sizes == (4, 1, 1)
    assert got["gradient_clipping"] == 0.5 and "bf16" not in got
    assert got["zero_optimization"]["stage"] == 2 and got["zero_optimization"]["overlap_comm"] is False
    assert not any(key.startswith("stage3") for key in got["zero_optimization"])
    assert got["zero_force_ds_cpu_optimizer"] is False
    assert deepspeed_config(ZeroConfig(), OptimConfig(clip_norm=None), "fp32", 1)["gradient_clipping"] == 0.0


def test_keys_of_a_stage_3_run_with_offload() -> None:
    zero = ZeroConfig(
        stage=3, offload_optimizer="cpu", offload_parameters="cpu", stage3_param_persistence_threshold=7,
        extra={"sub_group_size": 9, "overlap_comm": True},
    )  # fmt: skip
    got = deepspeed_config(zero, OptimConfig(), "bf16", world_size=2)
    section = got["zero_optimization"]
    assert got["bf16"] == {"enabled": True}
    assert section["offload_optimizer"]["device"] == section["offload_param"]["device"] == "cpu"
    assert section["stage3_param_persistence_threshold"] == 7
    assert section["sub_group_size"] == 9 and section["overlap_comm"] is True  # `extra` has the last word


def test_stage_0_in_bf16_runs_as_stage_1() -> None:
    stages = {
        (stage, dtype): deepspeed_config(ZeroConfig(stage=stage), OptimConfig(), dtype, 2)["zero_optimization"]["stage"]
        for stage in (0, 1, 2, 3)
        for dtype in ("fp32", "bf16")
    }
    assert stages == {key: max(key[0], 1) if key[1] == "bf16" else key[0] for key in stages}


@pytest.mark.parametrize(
    ("zero", "dtype", "message"),
    [
        (ZeroConfig(stage=2, offload_parameters="cpu"), "fp32", r"zero\.offload_parameters=cpu needs zero\.stage=3"),
        (ZeroConfig(stage=0, offload_optimizer="cpu"), "fp32", r"zero\.offload_optimizer=cpu needs"),
    ],
)
def test_refusals(zero: ZeroConfig, dtype: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        deepspeed_config(zero, OptimConfig(), dtype, world_size=2)


def test_nccl_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match=r"distributed\.backend=nccl"):
        groups._device_and_backend("nccl", 0)
    assert groups._device_and_backend("auto", 0) == (torch.device("cpu"), "gloo")


def test_a_local_rank_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(TrainingError, match="local rank 3 has no GPU: 2 visible"):
        groups._device_and_backend("auto", 3)


def test_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    monkeypatch.setattr(groups.os, "sched_getaffinity", lambda _pid: set(range(8)))
    monkeypatch.setattr(groups, "threads", lambda: None)
    cpu = torch.device("cpu")
    groups._set_threads(DistributedConfig(), cpu, 2)
    groups._set_threads(DistributedConfig(threads_per_process=3), cpu, 2)
    monkeypatch.setattr(groups, "threads", lambda: 5)
    groups._set_threads(DistributedConfig(), cpu, 2)
    assert seen == [4, 3, 5]
