"""The optimizer step and the loop around it.

A step: this rank's rows -> engine.loss / W -> engine.backward, then engine.step. W is the weight of the whole step over
all ranks. Inside a step the host waits for the device nowhere; it reads loss and norm once a log line.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from extes_train.errors import TrainingError
from extes_train.training.budget import Budget, Spent
from extes_train.training.freed_memory import keep_freed_memory
from extes_train.training.memory import peak_memory_bytes
from extes_train.training.schedule import learning_rate
from extes_train.training.signals import GO_ON, INTERRUPT, OUT_OF_TIME, REQUEUE, StopRequest
from extes_train.training.step_data import Ahead, Share, StepSource

if TYPE_CHECKING:
    from extes_train.config import TrainConfig
    from extes_train.engine.engine import Engine
    from extes_train.engine.process_group import ProcessGroup


@dataclass
class Agreed:
    """What the ranks told each other before a step."""

    weight: float  # W
    stop: int  # GO_ON, OUT_OF_TIME, REQUEUE or INTERRUPT
    seconds: float  # rank 0's training time


@dataclass
class Interval:
    """Sums since the last log line. Tensors stay on the device."""

    loss: torch.Tensor
    weight: float = 0.0
    tokens: int = 0
    flat_tokens: int = 0
    targets: int = 0
    pairs: int = 0
    flat_pairs: int = 0
    start: float = field(default_factory=time.monotonic)

    def add(self, share: Share, weighted_loss: torch.Tensor, weight: float) -> None:
        """Count one step in."""
        self.loss += weighted_loss * weight
        self.weight += weight
        self.tokens += share.tokens
        self.flat_tokens += share.flat_tokens
        self.targets += share.targets
        self.pairs += share.pairs
        self.flat_pairs += share.flat_pairs


@dataclass
class Hooks:
    """What the loop calls by name, on all ranks: `log` a metrics line, `save`, `evaluate`, and after every step."""

    log: Callable[[dict[str, Any]], None]
    save: Callable[[Spent], None]
    evaluate: Callable[[Spent], None]
    step_done: Callable[[], None]


def train_step(engine: Engine, share: Share, weight: float, lr: float) -> tuple[Any, Any]:
    """One optimizer step on this rank's rows; returns (this rank's part of the loss, gradient norm before clipping)."""
    total = torch.zeros((), device=engine.device)
    for index, row in enumerate(share.rows):
        loss = engine.loss(row)[0] / weight
        engine.backward(loss, is_boundary=index == len(share.rows) - 1)
        total += loss.detach()
    return total, engine.step(lr)


def train(
    engine: Engine,
    source: StepSource,
    budget: Budget,
    spent: Spent,
    stop: StopRequest,
    group: ProcessGroup,
    config: TrainConfig,
    hooks: Hooks,
) -> int:
    """Go on from `spent` until the budget is used (returns GO_ON) or the ranks agree to stop (REQUEUE, INTERRUPT).

    `spent` is kept up to date. Raises TrainingError for a loss that is not finite, or a step without targets.
    """
    rehearse(engine, source)
    keep_freed_memory()
    interval = Interval(torch.zeros((), device=engine.device))
    before, started = spent.seconds, time.monotonic()
    reason, lr, grad_norm = GO_ON, 0.0, 0.0
    steps = Ahead(source, spent.step, budget.total_steps)
    try:
        for share in steps:
            if budget.max_targets is not None and spent.targets >= budget.max_targets:
                break
            agreed = agree(group, share.local_weight, stop, before + time.monotonic() - started, budget)
            if agreed.stop != GO_ON:
                reason = GO_ON if agreed.stop == OUT_OF_TIME else agreed.stop
                break
            if agreed.weight <= 0:
                raise TrainingError(f"step {spent.step + 1}: no target on any rank; nothing can be learned from it")

            lr = learning_rate(config.optim, spent.step, budget.progress(spent, agreed.seconds))
            loss, grad_norm = train_step(engine, share, agreed.weight, lr)

            interval.add(share, loss, agreed.weight)
            _count(spent, share, before + time.monotonic() - started)
            if spent.step % config.debug.log_every_steps == 0 or spent.step == budget.total_steps:
                hooks.log(line := metrics_line(interval, spent, lr, grad_norm, group))
                _check_finite(line)
                interval = Interval(torch.zeros((), device=engine.device))
            hooks.step_done()
            paused = time.monotonic()
            if _due(spent.step, config.checkpoint.every_steps, budget):
                if interval.weight:  # steps that no line has shown: broken weights must not become a checkpoint
                    _check_finite(metrics_line(interval, spent, lr, grad_norm, group))
                hooks.save(spent)
            if _due(spent.step, config.evaluation.every_steps, budget):
                hooks.evaluate(spent)
            started += time.monotonic() - paused
            interval.start += time.monotonic() - paused
    finally:
        steps.close()
    if interval.weight:  # steps since the last line
        hooks.log(metrics_line(interval, spent, lr, grad_norm, group))
    return reason


def rehearse(engine: Engine, source: StepSource) -> None:
    """The longest row of the data once forward and backward before the first step, its targets weighing nothing.

    What does not fit into memory fails here and not after hours. The gradients are zeros, which the first step
    accumulates; random generators are put back.
    """
    with torch.random.fork_rng(devices=[engine.device] if engine.device.type == "cuda" else []):
        loss, _ = engine.loss(source.longest_row())
        engine.backward(loss, is_boundary=False)


def agree(group: ProcessGroup, local_weight: float, stop: StopRequest, seconds: float, budget: Budget) -> Agreed:
    """One all-reduce on the host before the first backward: the step's weight, and whether anyone wants to stop.

    Sums alone suffice: rank 0 brings the time, and each kind of stop is counted.
    """
    first = group.rank == 0
    late = first and budget.max_seconds is not None and seconds >= budget.max_seconds
    wishes = [float(stop.value == REQUEUE), float(stop.value == INTERRUPT), float(late)]
    weight, requeue, interrupt, out_of_time, time_s = group.sum([local_weight, *wishes, seconds if first else 0.0])
    kind = INTERRUPT if interrupt else OUT_OF_TIME if out_of_time else REQUEUE if requeue else GO_ON
    return Agreed(weight, kind, time_s)


def metrics_line(interval: Interval, spent: Spent, lr: float, grad_norm: Any, group: ProcessGroup) -> dict[str, Any]:
    """The line of metrics.jsonl (tracking.py says what each value is). Waits for the device; all ranks call it."""
    (loss,) = group.sum([float(interval.loss)])
    (memory,) = group.max([float(peak_memory_bytes())])
    seconds = time.monotonic() - interval.start
    return {
        "step": spent.step, "loss": loss / interval.weight, "lr": lr, "grad_norm": float(grad_norm),
        "tokens": interval.tokens, "targets": interval.targets, "weight": interval.weight, "seconds": seconds,
        "tokens_per_s": interval.tokens / seconds, "memory_bytes": int(memory), "flat_tokens": interval.flat_tokens,
        "pairs": interval.pairs, "flat_pairs": interval.flat_pairs,
    }  # fmt: skip


def _count(spent: Spent, share: Share, seconds: float) -> None:
    spent.step += 1
    spent.seconds = seconds
    spent.tokens += share.tokens
    spent.flat_tokens += share.flat_tokens
    spent.targets += share.targets
    spent.dialogues += share.dialogues


def _check_finite(line: dict[str, Any]) -> None:
    for name in ("loss", "grad_norm"):
        if not math.isfinite(line[name]):
            raise TrainingError(
                f"step {line['step']}: {name} is {line[name]}; lower optim.lr or set optim.clip_norm "
                f"(debug.detect_anomaly=true names the operation). The last checkpoint is kept."
            )


def _due(step: int, every: int | None, budget: Budget) -> bool:
    """True every `every` steps, but not after the last one: the end of the run does it anyway."""
    return every is not None and step % every == 0 and step != budget.total_steps
