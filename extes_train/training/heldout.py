"""Held-out perplexity while training: the original responses of the held-out windows, every rank with its share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from extes_train.training.step_data import StepSource

if TYPE_CHECKING:
    from extes_train.engine.engine import Engine
    from extes_train.engine.process_group import ProcessGroup

WINDOWS_AT_A_TIME = 64  # packed together; bounds what lies in memory


@torch.no_grad()
def heldout_perplexity(
    engine: Engine, source: StepSource, group: ProcessGroup, beat: Callable[[], None]
) -> dict[str, Any]:
    """{"perplexity", "nll", "targets", "seconds"} of the windows of `source`; all ranks call it and get the same.

    Ranks have equally many rows (empty ones fill up), so that no rank waits for one without work, under ZeRO-3 too.
    """
    started, was_training = time.monotonic(), engine.model.training
    engine.model.eval()
    nll, targets = torch.zeros((), device=engine.device, dtype=torch.float64), 0
    for start in range(0, len(source.dataset), WINDOWS_AT_A_TIME):
        share = source.share_of(range(start, min(start + WINDOWS_AT_A_TIME, len(source.dataset))))
        for row in share.rows:
            # an empty row's one target has weight 0
            nll += torch.where(row.weight_Q > 0, engine.target_nll(row), 0.0).double().sum()
        targets += share.targets
        beat()
    engine.model.train(was_training)
    (total,) = group.sum([float(nll)])
    mean = total / targets
    return {
        "perplexity": math.exp(mean) if mean < 700 else math.inf,
        "nll": total,
        "targets": targets,
        "seconds": time.monotonic() - started,
    }
