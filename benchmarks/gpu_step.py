"""A training step as gpu.py times it: marks on the device's clock, the optimizer's fp32 weights, what memory holds.

Everything that asks for CUDA is in here and knows a CPU too, so that gpu.py's rehearsal runs the same lines.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Setting = TypeVar("Setting")
Result = TypeVar("Result")


def synchronize(device: torch.device) -> None:
    """Wait for all work on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device, start_again: bool = False) -> int | None:
    """Most bytes allocated since the last `start_again`, None on a CPU."""
    if device.type != "cuda":
        return None
    found = torch.cuda.max_memory_allocated(device)
    if start_again:
        torch.cuda.reset_peak_memory_stats(device)
    return found


def free_memory(device: torch.device) -> None:
    """Give back what nothing holds."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@dataclass
class Clock:
    """Seconds between marks, on the device's own clock: nothing waits until they are read."""

    device: torch.device
    marks: list[tuple[str, Any]] = field(default_factory=list)

    def mark(self, name: str) -> None:
        """Here ends what is called `name`."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
        else:
            event = time.perf_counter()
        self.marks.append((name, event))

    def seconds(self) -> dict[str, float]:
        """Sums by name; the first mark is the start."""
        synchronize(self.device)
        found: dict[str, float] = {}
        for (_, before), (name, after) in zip(self.marks, self.marks[1:]):
            took = before.elapsed_time(after) / 1e3 if self.device.type == "cuda" else after - before
            found[name] = found.get(name, 0.0) + took
        return found


class MasterAdamW:
    """AdamW over fp32 copies of the weights that move, gradients summed over rows in fp32 and clipped to a norm of 1:
    what DeepSpeed does for bf16 models. The learning rate is 0, so that every arm and round has the same weights."""

    def __init__(self, model: nn.Module) -> None:
        self.moving = [p for p in model.parameters() if p.requires_grad]
        self.masters = [p.detach().float() for p in self.moving]
        self.hooks = []
        for parameter, master in zip(self.moving, self.masters, strict=True):
            master.grad = torch.zeros_like(master)
            self.hooks.append(parameter.register_post_accumulate_grad_hook(_add_to(master)))
        self.adamw = torch.optim.AdamW(self.masters, lr=0.0, weight_decay=0.0, fused=True)

    def gradients(self) -> list[Tensor]:
        """Those of the step so far."""
        return [master.grad for master in self.masters if master.grad is not None]

    def step(self) -> None:
        """Clip, update, copy to the model, clear."""
        torch.nn.utils.clip_grad_norm_(self.masters, 1.0)
        self.adamw.step()
        with torch.no_grad():
            torch._foreach_copy_(self.moving, self.masters)
        torch._foreach_zero_(self.gradients())

    def close(self) -> None:
        """Take the hooks off the model."""
        for hook in self.hooks:
            hook.remove()


def _add_to(master: Tensor) -> Callable[[Tensor], None]:
    def add(parameter: Tensor) -> None:
        assert master.grad is not None and parameter.grad is not None
        master.grad.add_(parameter.grad)
        parameter.grad = None

    return add


@dataclass
class Measured:
    """Median seconds of a step by part, its rounds, peak memory, loss (sum of w nll / sum of w) and gradients.

    `host_seconds` is what the host needs to queue a step's work: where it comes near the whole, the device waits.
    """

    seconds: dict[str, float]
    host_seconds: float
    rounds: int
    peak_memory_bytes: int | None
    loss: float
    gradients: list[Tensor]

    @property
    def total(self) -> float:
        """Seconds of a step."""
        return sum(self.seconds.values())


def measure(model: nn.Module, rows: list[Any], rounds: int, at_most_s: float) -> Measured:
    """Steps over all rows: at least one, at most `rounds` of them or as many as start within `at_most_s`.

    Before, up to three rows of them, the longest first, warm up kernels and memory.
    """
    device = rows[0].device
    optimizer = MasterAdamW(model)
    try:
        for row in sorted(rows, key=lambda row: -row.ids_1T.numel())[:3]:
            _step(model, [row], optimizer, Clock(device))
        optimizer.step()
        peak_memory(device, start_again=True)
        table: list[dict[str, float]] = []
        queued: list[float] = []
        start = time.monotonic()
        while not table or (len(table) < rounds and time.monotonic() - start < at_most_s):
            clock, began = Clock(device), time.perf_counter()
            loss = _step(model, rows, optimizer, clock)
            queued.append(time.perf_counter() - began)
            if not table:
                gradients = [gradient.clone() for gradient in optimizer.gradients()]
                clock.mark("copying")
            optimizer.step()
            clock.mark("optimizer")
            table.append(clock.seconds())
            table[-1].pop("copying", None)
        median = {name: statistics.median(spent[name] for spent in table) for name in table[0]}
        weight = sum(float(row.weight_Q.sum()) for row in rows)
        host = statistics.median(queued)
        return Measured(median, host, len(table), peak_memory(device), float(loss) / weight, gradients)
    finally:
        optimizer.close()


def _step(model: nn.Module, rows: list[Any], optimizer: MasterAdamW, clock: Clock) -> Tensor:
    """Forward and backward of all rows; the sum of their losses."""
    from extes_train.model.config import LossConfig
    from extes_train.model.loss import row_loss

    total = torch.zeros((), device=rows[0].device)
    clock.mark("start")
    for row in rows:
        row.cache.clear()  # masks and offsets belong to a step
        loss = row_loss(model, row, LossConfig())[0]
        clock.mark("forward")
        (loss / 1024).backward()
        clock.mark("backward")
        total += loss.detach()
    return total


def first_that_fits(
    settings: Iterable[Setting], attempt: Callable[[Setting], Result], device: torch.device
) -> tuple[Result, list[Setting]]:
    """What `attempt` makes of the first setting that fits into memory, and the settings that did not."""
    failed: list[Setting] = []
    for setting in settings:
        try:
            return attempt(setting), failed
        except torch.OutOfMemoryError:
            failed.append(setting)
        free_memory(device)  # not inside `except`: the error holds the frames, and they hold the tensors
    raise torch.OutOfMemoryError(f"none of {failed} fits into memory")


def difference(got: list[Tensor], want: list[Tensor]) -> dict[str, float]:
    """||got - want|| / ||want|| of all tensors together, and the largest of a single one."""
    pairs = [(float((g - w).norm()), float(w.norm())) for g, w in zip(got, want, strict=True)]
    whole = sum(d**2 for d, _ in pairs) ** 0.5 / sum(n**2 for _, n in pairs) ** 0.5
    return {"grad_diff": whole, "max_grad_diff": max((d / n for d, n in pairs if n > 0), default=0.0)}
