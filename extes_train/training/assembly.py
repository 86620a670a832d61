"""From a configuration to the parts of a run: dialogues, tokenised data, plan, model, engine.

What the user can get wrong is met before the process group starts, so that it fails at once and on every rank alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from extes_train.config import TrainConfig, config_digest
from extes_train.dialogue.files import sha256_of_file
from extes_train.dialogue.schema import Dialogue
from extes_train.dialogue.sides import Sides, load_sides
from extes_train.errors import ConfigError, TrainingError
from extes_train.tokens.dataset import TokenDataset, build_dataset
from extes_train.tokens.tree import ResponseWeights
from extes_train.training.budget import Budget, build_budget
from extes_train.training.step_plan import StepPlan, build_step_plan

if TYPE_CHECKING:
    from extes_train.engine.engine import Engine
    from extes_train.engine.process_group import ProcessGroup


@dataclass
class RunData:
    """What a run learns from and is measured on."""

    tokenizer: Any
    sides: Sides
    train: TokenDataset
    heldout: TokenDataset | None  # None with data.valid_fraction=0 and no data.valid
    digests: dict[str, str]  # of the files, by config key
    plan: StepPlan
    budget: Budget


def load_run_data(config: TrainConfig) -> RunData:
    """Read, split and tokenise the dialogues of `config`, and plan the steps.

    Raises ConfigError, DataError, ModelError or LayoutError; needs no process group.
    """
    from extes_train.model.loading import load_tokenizer
    from extes_train.model.tuning import check_tuning

    tokenizer = load_tokenizer(config.model)
    check_tuning(config.tuning, config.model)
    length = _context_length(config)
    check_config(config, length)
    dri = config.augmentation.name == "dri"
    sides = load_sides(config.data, config.augmentation.train if dri else None)
    alternatives = config.augmentation.num_alternatives if dri else 0
    train = _dataset(config, sides.train, tokenizer, length, alternatives, "train")
    heldout = _dataset(config, sides.valid, tokenizer, length, 0, "valid") if sides.valid else None
    plan = build_step_plan(len(train), config.optim, config.seed, overfit=config.debug.name == "overfit")
    budget = build_budget(config.optim, plan.total_steps)
    return RunData(tokenizer, sides, train, heldout, data_digests(config), plan, budget)


def _context_length(config: TrainConfig) -> int:
    """Tokens of the longest path. Raises LayoutError where the architecture takes no trees and the layout is tree."""
    from extes_train.model.architectures import check_takes_trees
    from extes_train.model.loading import context_length, read_model_config

    assert config.model.path is not None  # the tokenizer came from there
    model_config = read_model_config(config.model.path, config.model.revision)
    if config.tokens.layout == "tree":
        check_takes_trees(model_config, config.model.context_length)
        if config.model.attention == "stock":
            raise ConfigError("model.attention=stock takes no trees: set model.attention=auto or tokens.layout=flat")
    return context_length(config.model, model_config)


def _dataset(
    config: TrainConfig, dialogues: Sequence[Dialogue], tokenizer: Any, length: int, alternatives: int | None, name: str
) -> TokenDataset:
    return build_dataset(
        dialogues,
        tokenizer,
        config.tokens,
        context_length=length,
        num_alternatives=alternatives,
        weights=ResponseWeights(config.loss.weighting, config.loss.per_turn, config.loss.alternatives_weight),
        chat_template=config.model.chat_template,
        name=name,
    )


def data_digests(config: TrainConfig) -> dict[str, str]:
    """SHA-256 of the data files, by config key."""
    paths = {
        "data.train": config.data.train, "data.valid": config.data.valid, "data.test": config.data.test,
        "augmentation.train": config.augmentation.train,
    }  # fmt: skip
    return {key: sha256_of_file(path) for key, path in paths.items() if path is not None and Path(path).is_file()}


def build_training_engine(config: TrainConfig, group: ProcessGroup) -> tuple[Engine, dict[str, int]]:
    """The engine around the tuned model, and its numbers of parameters. The same seed on every rank builds it.

    Under ZeRO-3 the weights are read into partitions and tuned there. Where a rank cannot load the model, all raise.
    """
    from extes_train.engine.engine import build_engine
    from extes_train.engine.partitioned_loading import cast_new_weights, load_partitioned, partitioning, whole_size
    from extes_train.model.attention import use_attention
    from extes_train.model.compiling import compile_layers
    from extes_train.model.loading import DTYPES, load_model
    from extes_train.model.tuning import apply_tuning, quantization_config, trainable_parameters

    torch.autograd.set_detect_anomaly(config.debug.detect_anomaly)
    seed_everything(config.seed)
    model = load_partitioned(config, group)
    if model is None:
        model = group.together(
            lambda: load_model(
                config.model,
                trees=config.tokens.layout == "tree",
                device=group.device,
                quantization=quantization_config(config.tuning),
            )
        )
    seed_everything(config.seed)  # random weights were drawn by all ranks, or by one
    with partitioning(config, group):
        model = apply_tuning(model, config.tuning, config.model.gradient_checkpointing)
    cast_new_weights(model, DTYPES[config.model.dtype])
    use_attention(model, config.model.attention, group.device, config.model.context_length)
    trainable = sum(whole_size(p) for p in trainable_parameters(model))
    total = sum(whole_size(p) for p in model.parameters())
    if config.model.compile:
        compile_layers(model, config.zero.stage)
    engine = build_engine(model, config, group)
    # from here on the ranks draw differently: dropout must not be the same on all of them
    seed_everything(config.seed * 1_000_003 + group.rank)
    return engine, {"trainable_parameters": trainable, "parameters": total}


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, NumPy and torch."""
    import random

    import numpy as np

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def check_ranks_agree(config: TrainConfig, group: ProcessGroup) -> None:
    """Compare the configurations' digests over the ranks. Raises TrainingError that names those that differ."""
    digests = group.gather((config_digest(config), config.run_dir))
    different = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
    if different:
        raise TrainingError(
            f"ranks {', '.join(map(str, different))} have another configuration or run_dir than rank 0; "
            "start all ranks with the same overrides and an absolute run_dir"
        )


def resolved(config: TrainConfig) -> TrainConfig:
    """`config` with an absolute run_dir."""
    return dataclasses.replace(config, run_dir=str(Path(config.run_dir).resolve()))


def check_config(config: TrainConfig, context_length: int) -> None:
    """Combinations that only the model's own limits can judge. Raises ConfigError."""
    if config.model.context_length is not None and config.tokens.tokens_per_row < context_length:
        raise ConfigError(
            f"tokens.tokens_per_row={config.tokens.tokens_per_row}: must hold a window of "
            f"model.context_length={context_length} tokens"
        )
