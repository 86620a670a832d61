"""The learning rate of a step: a linear warm-up times a cosine, a line or a constant."""

from __future__ import annotations

import math

from extes_train.engine.config import OptimConfig


def learning_rate(optim: OptimConfig, step: int, progress: float) -> float:
    """The rate of the step with index `step` (0 is the first one).

    `progress` in [0, 1] is the part of the budget used before this step: step / total steps, or seconds over
    `optim.max_seconds`. Warm-up counts steps, so that a short run warms up as a long one does.
    """
    warmup = min(1.0, (step + 1) / optim.warmup_steps) if optim.warmup_steps else 1.0
    return optim.lr * warmup * _decay(optim, min(max(progress, 0.0), 1.0))


def _decay(optim: OptimConfig, progress: float) -> float:
    if optim.schedule == "constant":
        return 1.0
    falling = 0.5 * (1.0 + math.cos(math.pi * progress)) if optim.schedule == "cosine" else 1.0 - progress
    return optim.min_lr_ratio + (1.0 - optim.min_lr_ratio) * falling
