"""How much a run may use, and how much it has used: steps, targets, seconds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from extes_train.engine.config import OptimConfig


@dataclass
class Spent:
    """What a run has used since its first step, over all its resumptions. Every rank has the same numbers."""

    step: int = 0  # optimizer steps completed
    seconds: float = 0.0  # of training steps
    tokens: int = 0  # in rows, padding excluded
    flat_tokens: int = 0  # of the multi_turn flat layout for the same targets
    targets: int = 0
    dialogues: int = 0  # windows

    def to_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self)


@dataclass(frozen=True)
class Budget:
    """The caps of a run; None is no cap. The first one reached ends it."""

    total_steps: int | None
    max_targets: int | None = None
    max_seconds: float | None = None

    def progress(self, spent: Spent, seconds: float) -> float:
        """The part used, in [0, 1]: of the cap that is nearest. `seconds` is what the ranks agreed on."""
        parts = [0.0]
        if self.total_steps:
            parts.append(spent.step / self.total_steps)
        if self.max_targets:
            parts.append(spent.targets / self.max_targets)
        if self.max_seconds:
            parts.append(seconds / self.max_seconds)
        return min(1.0, max(parts))


def build_budget(optim: OptimConfig, total_steps: int | None) -> Budget:
    """The budget of `optim`, with the step plan's number of steps."""
    return Budget(total_steps, optim.max_targets, optim.max_seconds)
