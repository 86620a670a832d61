"""Our sections as DeepSpeed's dictionary. The only file that knows DeepSpeed's keys."""

from __future__ import annotations

from typing import Any

from extes_train.engine.config import OptimConfig, ZeroConfig, running_stage
from extes_train.errors import ConfigError


def deepspeed_config(zero: ZeroConfig, optim: OptimConfig, dtype: str, world_size: int) -> dict[str, Any]:
    """What `deepspeed.initialize` is given.

    A micro-batch is one row. Accumulation is 1 because the engine sets the boundary by hand (the number of rows in a
    step varies), and it passes its losses undivided.
    Raises ConfigError for a combination that DeepSpeed would get wrong.
    """
    check_zero(zero)
    config: dict[str, Any] = {
        "train_batch_size": world_size,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optim.clip_norm or 0.0,
        "zero_optimization": zero_section(zero, running_stage(zero, dtype)),
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**12,
        "wall_clock_breakdown": False,
    }
    if dtype == "bf16":
        config["bf16"] = {"enabled": True}
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


def zero_section(zero: ZeroConfig, stage: int) -> dict[str, Any]:
    """DeepSpeed's `zero_optimization`."""
    section: dict[str, Any] = {
        "stage": stage,
        "overlap_comm": zero.overlap_comm,
        "reduce_bucket_size": zero.reduce_bucket_size,
        "allgather_bucket_size": zero.reduce_bucket_size,
        "contiguous_gradients": True,
        "round_robin_gradients": False,
    }
    if zero.offload_optimizer != "none":
        section["offload_optimizer"] = {"device": zero.offload_optimizer, "pin_memory": True}
    if zero.offload_parameters != "none":
        section["offload_param"] = {"device": zero.offload_parameters, "pin_memory": True}
    if stage == 3:
        section |= {
            "stage3_param_persistence_threshold": zero.stage3_param_persistence_threshold,
            "stage3_max_live_parameters": zero.stage3_max_live_parameters,
            "stage3_max_reuse_distance": zero.stage3_max_reuse_distance,
            "stage3_prefetch_bucket_size": zero.stage3_prefetch_bucket_size,
            "stage3_gather_16bit_weights_on_model_save": False,  # engine.full_state_dict gathers
        }
    return section | dict(zero.extra)


def check_zero(zero: ZeroConfig) -> None:
    """Refuse what DeepSpeed would accept and get wrong."""
    if zero.offload_parameters != "none" and zero.stage != 3:
        raise ConfigError(f"zero.offload_parameters={zero.offload_parameters} needs zero.stage=3, not {zero.stage}")
    if zero.offload_optimizer != "none" and zero.stage == 0:
        raise ConfigError(f"zero.offload_optimizer={zero.offload_optimizer} needs zero.stage=1, 2 or 3, not 0")
