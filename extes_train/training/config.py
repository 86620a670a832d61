"""Checkpoints, trackers, logging and debugging of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from extes_train.dialogue.checks import at_least, one_of


@dataclass
class CheckpointConfig:
    """Checkpoints under RUN/checkpoints."""

    every_steps: int | None = None  # None: only at the end and on a signal
    keep_last: int = 2  # completed checkpoints kept
    at_end: bool = True  # keep a checkpoint after the last step too

    def __post_init__(self) -> None:
        at_least("checkpoint.every_steps", self.every_steps, 1)
        at_least("checkpoint.keep_last", self.keep_last, 1)


@dataclass
class TrackerConfig:
    """Weights & Biases."""

    name: str = "offline"  # wandb | offline | none; generate and inpaint: none unless they are told another
    project: str = "extes"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        one_of("tracker.name", self.name, ("wandb", "offline", "none"))


@dataclass
class DebugConfig:
    """Stop early, look closer."""

    name: str = "none"  # none | show | overfit | profile
    log_every_steps: int = 1  # steps between lines of metrics.jsonl
    detect_anomaly: bool = False
    sample_index: int = 0  # which dialogue debug=show prints

    def __post_init__(self) -> None:
        one_of("debug.name", self.name, ("none", "show", "overfit", "profile"))
        at_least("debug.log_every_steps", self.log_every_steps, 1)
