"""ZeRO, the optimizer and the process group: the only configuration that becomes DeepSpeed keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from extes_train.dialogue.checks import above, at_least, one_of, within


@dataclass
class ZeroConfig:
    """DeepSpeed ZeRO (arXiv 1910.02054)."""

    stage: int = 2  # 0 | 1 | 2 | 3; 0 runs as 1 with model.dtype=bf16
    offload_optimizer: str = "none"  # none | cpu
    offload_parameters: str = "none"  # none | cpu (stage 3)
    overlap_comm: bool = False  # off: public reports of zero or NaN losses with it
    reduce_bucket_size: int = 50_000_000  # elements
    stage3_param_persistence_threshold: int = 100_000  # elements
    stage3_max_live_parameters: int = 1_000_000_000
    stage3_max_reuse_distance: int = 1_000_000_000
    stage3_prefetch_bucket_size: int = 50_000_000
    extra: dict[str, Any] = field(default_factory=dict)  # merged into DeepSpeed's zero_optimization as it is

    def __post_init__(self) -> None:
        one_of("zero.offload_optimizer", self.offload_optimizer, ("none", "cpu"))
        one_of("zero.offload_parameters", self.offload_parameters, ("none", "cpu"))
        within("zero.stage", self.stage, 0, 3)


def running_stage(zero: ZeroConfig, dtype: str) -> int:
    """The ZeRO stage that runs. In bf16, stage 0 runs as stage 1.

    DeepSpeed's stage 0 sums the gradients of a step's rows in bf16 and drifts (docs/log.md); its stage 1 sums them in
    fp32, with the moments shared out over the ranks.
    """
    return 1 if zero.stage == 0 and dtype == "bf16" else zero.stage


@dataclass
class OptimConfig:
    """AdamW and the step."""

    lr: float = 1e-3
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    weight_decay: float = 0.0
    epochs: float = 1.0  # used when max_steps is None
    max_steps: int | None = None  # optimizer steps
    max_targets: int | None = None  # stop after so many trained targets (compare.budget=targets)
    max_seconds: float | None = None  # stop after so many seconds of training (compare.budget=seconds)
    dialogues_per_step: int = 16  # windows of dialogues an optimizer step sees, over all ranks
    warmup_steps: int = 10
    schedule: str = "cosine"  # cosine | linear | constant
    min_lr_ratio: float = 0.0  # final lr / lr
    clip_norm: float | None = 1.0  # None: no clipping

    def __post_init__(self) -> None:
        one_of("optim.schedule", self.schedule, ("cosine", "linear", "constant"))
        above("optim.lr", self.lr, 0)
        above("optim.epochs", self.epochs, 0)
        at_least("optim.max_steps", self.max_steps, 1)
        at_least("optim.dialogues_per_step", self.dialogues_per_step, 1)
        at_least("optim.warmup_steps", self.warmup_steps, 0)
        above("optim.clip_norm", self.clip_norm, 0)
        within("optim.min_lr_ratio", self.min_lr_ratio, 0.0, 1.0)


@dataclass
class DistributedConfig:
    """The process group."""

    backend: str = "auto"  # auto: nccl on GPU, gloo on CPU
    timeout_s: float = 1800.0  # of a collective
    watchdog_s: float = 600.0  # dump all stacks when a step takes longer
    threads_per_process: int | None = None  # OMP threads; None: cores / processes on the node

    def __post_init__(self) -> None:
        one_of("distributed.backend", self.backend, ("auto", "gloo", "nccl"))
        above("distributed.timeout_s", self.timeout_s, 0)
        above("distributed.watchdog_s", self.watchdog_s, 0)
