"""The schedule against the formula of the plain PyTorch reference."""

from __future__ import annotations

import math

import pytest

from extes_train.engine.config import OptimConfig
from extes_train.training.budget import Budget, Spent
from extes_train.training.schedule import learning_rate


def test_cosine_is_the_reference_formula() -> None:
    optim = OptimConfig(lr=1e-3, warmup_steps=10, max_steps=200)
    budget = Budget(200)
    for step in range(200):
        expected = 1e-3 * min(1, (step + 1) / 10) * 0.5 * (1 + math.cos(math.pi * step / 200))
        assert learning_rate(optim, step, budget.progress(Spent(step=step), 0.0)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("schedule", "middle", "end"), [("linear", 0.55, 0.1), ("cosine", 0.55, 0.1), ("constant", 1, 1)]
)
def test_decay_ends_at_the_smallest_rate(schedule: str, middle: float, end: float) -> None:
    optim = OptimConfig(lr=2.0, warmup_steps=0, schedule=schedule, min_lr_ratio=0.1)
    assert learning_rate(optim, 50, 0.5) == pytest.approx(2 * middle)
    assert learning_rate(optim, 99, 1.0) == pytest.approx(2 * end)


def test_progress_follows_the_nearest_cap() -> None:
    budget = Budget(total_steps=100, max_targets=1000, max_seconds=10.0)
    assert budget.progress(Spent(step=10, targets=500), seconds=2.0) == 0.5
    assert budget.progress(Spent(step=10, targets=500), seconds=12.0) == 1.0
    assert Budget(None).progress(Spent(step=9), 3.0) == 0.0
