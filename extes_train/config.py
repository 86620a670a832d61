"""The configuration of a training run: it only composes what stands beside the code it configures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from extes_train.engine.config import DistributedConfig, OptimConfig, ZeroConfig
from extes_train.evaluation.config import EvaluationConfig
from extes_train.model.config import (
    AdapterConfig,
    DoraConfig,
    FullConfig,
    LoraConfig,
    LossConfig,
    ModelConfig,
    QloraConfig,
    TuningConfig,
)
from extes_train.tokens.config import AugmentationConfig, DataConfig, TokensConfig
from extes_train.training.config import CheckpointConfig, DebugConfig, TrackerConfig


@dataclass
class TrainConfig:
    """One run. `launcher` to `compare` belong to the launcher; a worker carries them untyped and does not read them."""

    run_dir: str = "outputs/run"  # the run directory; absolute once a launcher has seen it
    seed: int = 0
    experiment: str | None = None  # name of the experiment preset, if any
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    tokens: TokensConfig = field(default_factory=TokensConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    tuning: TuningConfig = field(default_factory=TuningConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    zero: ZeroConfig = field(default_factory=ZeroConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    debug: DebugConfig = field(default_factory=DebugConfig)
    launcher: Any = None
    teacher: Any = None
    serve: Any = None
    generate: Any = None
    inpaint: Any = None
    pretrain: Any = None
    compare: Any = None


# group/option -> the dataclass that types it; composition stores each as GROUP/OPTION_schema
TRAIN_SCHEMAS: dict[str, type] = {
    "tuning/full": FullConfig,
    "tuning/lora": LoraConfig,
    "tuning/dora": DoraConfig,
    "tuning/qlora": QloraConfig,
    "tuning/adapter": AdapterConfig,
}

# sections and groups that only the launcher reads
LAUNCHER_SECTIONS = ("launcher", "network", "teacher", "serve", "generate", "inpaint", "pretrain", "compare")
# sections and keys that may differ when a run directory is used again
FREE_SECTIONS = (*LAUNCHER_SECTIONS, "tracker", "debug", "distributed")
FREE_KEYS = ("run_dir", "experiment", "tokens.cache_dir", "optim.max_steps", "optim.max_seconds", "optim.max_targets")


def config_digest(config: TrainConfig) -> str:
    """Digest of the keys that fix what a run computes: all but FREE_SECTIONS and FREE_KEYS."""
    from dataclasses import asdict

    from extes_train.dialogue.files import digest_of

    values = asdict(config)
    for section in FREE_SECTIONS:
        values.pop(section, None)
    for key in FREE_KEYS:
        section, _, name = key.rpartition(".")
        (values[section] if section else values).pop(name, None)
    return digest_of(values)
