"""Which windows an optimizer step sees: from the seed and the step's number alone.

The windows of the data are put in a new order every epoch; the orders follow each other in one endless stream, and
step s takes its next `dialogues_per_step` windows. Nothing about layout, world size or row length enters, and the
only state a resumed run needs is the step's number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from extes_train.engine.config import OptimConfig
from extes_train.errors import DataError

OVERFIT_STEPS = 200  # of debug=overfit without optim.max_steps


@dataclass(frozen=True)
class StepPlan:
    """The stream of windows, cut into steps."""

    num_windows: int
    dialogues_per_step: int
    seed: int
    total_steps: int | None  # None: targets or seconds end the run
    last_position: int | None = None  # end of the stream, where epochs end it; the last step may be shorter
    repeat_first: bool = False  # debug=overfit: every step is step 0

    def windows(self, step: int) -> list[int]:
        """Indexes of the windows of step `step`, counted from 0."""
        start = 0 if self.repeat_first else step * self.dialogues_per_step
        stop = start + self.dialogues_per_step
        if self.last_position is not None and not self.repeat_first and start < self.last_position:
            stop = min(stop, self.last_position)
        return [self._window_at(position) for position in range(start, stop)]

    def epoch(self, step: int) -> float:
        """Epochs done before step `step`."""
        return step * self.dialogues_per_step / self.num_windows

    def _window_at(self, position: int) -> int:
        epoch, offset = divmod(position, self.num_windows)
        return int(epoch_order(self.seed, epoch, self.num_windows)[offset])


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, num_windows: int) -> np.ndarray:
    """A permutation of the windows. Raw generator output, sorted: NumPy promises no stable `permutation`."""
    draws = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(num_windows)
    return np.argsort(draws, kind="stable")


def build_step_plan(num_windows: int, optim: OptimConfig, seed: int, overfit: bool = False) -> StepPlan:
    """The plan for the budget of `optim`: max_steps, else max_targets or max_seconds (an open end), else epochs.

    Raises DataError where there is nothing to train on.
    """
    if num_windows == 0:
        raise DataError("data.train: no window with a target is left to train on")
    per_step, steps, last = optim.dialogues_per_step, optim.max_steps, None
    if steps is None and overfit:
        steps = OVERFIT_STEPS
    elif steps is None and optim.max_targets is None and optim.max_seconds is None:
        last = max(1, round(optim.epochs * num_windows))
        steps = math.ceil(last / per_step)
    return StepPlan(num_windows, per_step, seed, steps, last, repeat_first=overfit)
