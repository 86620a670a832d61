"""ZeRO-3: a model whose weights go straight into their partitions, so that no rank ever holds the whole.

transformers builds a model inside `deepspeed.zero.Init`, weight by weight, while a configuration of DeepSpeed's is
registered with it. Its own reading of the files then takes the whole model into the first rank's memory; here that rank
reads one weight at a time and gives it to the others. peft too looks for that registration, before it takes a norm
of a base weight (DoRA). It stands for these two moments only: with it in place, a `from_pretrained` on one rank alone
would wait for the others forever.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from extes_train.engine.deepspeed_config import deepspeed_config
from extes_train.engine.process_group import ProcessGroup
from extes_train.errors import ModelError

if TYPE_CHECKING:
    from extes_train.config import TrainConfig
    from extes_train.model.weight_files import StoredWeight

log = logging.getLogger(__name__)


def load_partitioned(config: TrainConfig, group: ProcessGroup) -> Any | None:
    """The causal language model of `model.path`, partitioned over the ranks; all ranks call it.

    None where it has to be loaded whole, as at other stages: below stage 3, with 4-bit weights, and where transformers
    must convert the files first. Raises what `model.loading.load_model` raises, on every rank.
    """
    if config.zero.stage != 3 or config.tuning.name == "qlora":
        return None
    from transformers import AutoModelForCausalLM

    from extes_train.model.loading import DTYPES, checked_architecture, say_large, say_nothing

    path, model_config = group.together(lambda: checked_architecture(config.model, config.tokens.layout == "tree"))
    stored: Mapping[str, StoredWeight] = {}
    if not config.model.random_weights:
        stored, obstacle = group.together(lambda: _readable(config, path, model_config))
        obstacles = [reason for reason in group.gather(obstacle) if reason is not None]
        if obstacles:
            log.warning("%s: every rank loads the whole model, since %s", path, obstacles[0])
            return None
        say_large(path)
    say_nothing()
    with partitioning(config, group):
        model = AutoModelForCausalLM.from_config(model_config, dtype=DTYPES[config.model.dtype])
    if not config.model.random_weights:
        _read_weights(model, stored, path, group)
        _read_generation_config(model, path, config.model.revision)
    for module in model.modules():  # DeepSpeed places partitions only
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(group.device)
    return model


@contextlib.contextmanager
def partitioning(config: TrainConfig, group: ProcessGroup) -> Iterator[None]:
    """Under ZeRO-3: inside, transformers builds models in partitions and peft gathers the weights it looks at."""
    if config.zero.stage != 3:
        yield
        return
    from transformers.integrations import deepspeed as registry

    settings = deepspeed_config(config.zero, config.optim, config.model.dtype, group.world_size)
    kept = registry.HfDeepSpeedConfig(settings)  # transformers holds a weak reference only
    try:
        yield
    finally:
        registry.unset_hf_deepspeed_config()
        del kept


def cast_new_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Give weights that were added to a partitioned model its dtype.

    DeepSpeed casts a whole model itself and takes a partitioned one as it is: adapters, which peft makes in fp32, would
    train in another precision than at other stages.
    """
    parameters = list(model.parameters())
    if any(is_partitioned(parameter) for parameter in parameters):
        for parameter in parameters:
            if not is_partitioned(parameter) and parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)


def is_partitioned(parameter: nn.Parameter) -> bool:
    """True where this rank holds a part of the parameter, in DeepSpeed's keeping."""
    return hasattr(parameter, "ds_id")


def whole_size(parameter: nn.Parameter) -> int:
    """Elements of a parameter, also where this rank holds only a part of it."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def _readable(config: TrainConfig, path: str, model_config: Any) -> tuple[dict[str, StoredWeight], str | None]:
    """Where the weights lie, and what forbids to read them one by one. `load_model` will name what is broken."""
    from extes_train.model.loading import DTYPES
    from extes_train.model.weight_files import by_name_obstacle, stored_weights

    try:
        stored = stored_weights(path, config.model.revision)
        return stored, by_name_obstacle(model_config, DTYPES[config.model.dtype], stored)
    except Exception as error:
        return {}, f"the files cannot be looked through ({error})"


def _read_weights(model: nn.Module, stored: Mapping[str, StoredWeight], path: str, group: ProcessGroup) -> None:
    """Weight by weight from the first rank's files; a file is closed again, or its pages would add up to the model."""
    import deepspeed
    from safetensors import safe_open

    error = None
    for name, parameter in model.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
            if group.is_first and error is None:
                try:
                    with safe_open(stored[name].file, framework="pt") as opened:
                        parameter.copy_(opened.get_tensor(name))
                except Exception as caught:  # the other ranks are waiting for this weight, and for the next ones
                    error = f"{path}: {name} cannot be read ({type(caught).__name__}: {caught})"
    error = group.broadcast(error)
    if error is not None:
        raise ModelError(error)


def _read_generation_config(model: Any, path: str, revision: str | None) -> None:
    """What the model's folder says about generation, where it does: it is saved with the trained model."""
    from transformers import GenerationConfig

    if Path(path).is_dir() and not (Path(path) / "generation_config.json").is_file():
        return
    with contextlib.suppress(OSError):  # a hub id without one
        model.generation_config = GenerationConfig.from_pretrained(path, revision=revision or "main")
