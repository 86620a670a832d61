"""The step plan: every window once an epoch, from seed and step alone."""

from __future__ import annotations

from collections import Counter

import pytest

from extes_train.engine.config import OptimConfig
from extes_train.errors import DataError
from extes_train.training.step_plan import build_step_plan


def test_an_epoch_holds_every_window_once() -> None:
    plan = build_step_plan(10, OptimConfig(epochs=2, dialogues_per_step=4), seed=3)
    assert plan.total_steps == 5
    seen = [window for step in range(5) for window in plan.windows(step)]
    assert Counter(seen[:10]) == Counter(range(10)) == Counter(seen[10:])
    assert seen[:10] != seen[10:], "each epoch has an order of its own"


def test_the_last_step_of_the_epochs_is_short() -> None:
    plan = build_step_plan(10, OptimConfig(epochs=1, dialogues_per_step=4), seed=0)
    assert [len(plan.windows(step)) for step in range(3)] == [4, 4, 2]


def test_a_step_depends_on_seed_and_number_only() -> None:
    optim = OptimConfig(max_steps=50, dialogues_per_step=4)
    first, again = build_step_plan(10, optim, 1), build_step_plan(10, OptimConfig(epochs=30, dialogues_per_step=4), 1)
    assert [first.windows(s) for s in (40, 2, 17)] == [again.windows(s) for s in (40, 2, 17)]
    assert first.windows(0) != build_step_plan(10, optim, 2).windows(0)


def test_the_order_is_the_same_on_every_machine() -> None:
    assert build_step_plan(12, OptimConfig(max_steps=1, dialogues_per_step=12), 0).windows(0) == GOLDEN


def test_overfit_repeats_the_first_step() -> None:
    plan = build_step_plan(10, OptimConfig(dialogues_per_step=4), seed=0, overfit=True)
    assert plan.windows(7) == plan.windows(0)


def test_targets_and_seconds_leave_the_end_open() -> None:
    assert build_step_plan(10, OptimConfig(max_targets=5), 0).total_steps is None
    assert build_step_plan(10, OptimConfig(max_seconds=5), 0).total_steps is None
    assert build_step_plan(10, OptimConfig(max_seconds=5, max_steps=7), 0).total_steps == 7


def test_nothing_to_train_on_is_an_error() -> None:
    with pytest.raises(DataError, match=r"data\.train"):
        build_step_plan(0, OptimConfig(), 0)


GOLDEN = [11, 3, 2, 1, 8, 6, 0, 7, 4, 10, 5, 9]
