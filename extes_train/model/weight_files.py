"""Which safetensors file holds which weight, where a model's files name its weights as its architecture does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class StoredWeight:
    """A tensor in a file."""

    file: str
    shape: tuple[int, ...]


def stored_weights(path: str, revision: str | None) -> dict[str, StoredWeight]:
    """Name -> place, of all weights of a folder or a hub id (downloaded if need be), from the files' headers alone."""
    from safetensors import safe_open
    from transformers.utils import cached_file
    from transformers.utils.hub import get_checkpoint_shard_files

    options: dict[str, Any] = {"revision": revision}
    single = cached_file(path, "model.safetensors", _raise_exceptions_for_missing_entries=False, **options)
    if single is not None:
        files = [single]
    else:
        index = cached_file(path, "model.safetensors.index.json", **options)
        files, _ = get_checkpoint_shard_files(path, index, **options)
    found = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            names = opened.keys()
            for name in names:
                found[name] = StoredWeight(str(file), tuple(opened.get_slice(name).get_shape()))
    return found


def by_name_obstacle(model_config: Any, dtype: torch.dtype, stored: Mapping[str, StoredWeight]) -> str | None:
    """Why the weights of this architecture cannot be read name by name from `stored`; None where they can.

    Quantised files, files with other names (transformers converts them) and incomplete ones are left to transformers.
    """
    from transformers import AutoModelForCausalLM

    if getattr(model_config, "quantization_config", None) is not None:
        return "the files are quantised"
    with torch.device("meta"):
        shape_only: nn.Module = AutoModelForCausalLM.from_config(model_config, dtype=dtype)
    if dtype != torch.float32 and getattr(shape_only, "_keep_in_fp32_modules_strict", None):
        return "some of its weights stay in fp32"
    wanted = dict(shape_only.named_parameters())  # of weights that are tied, the first name
    aliases = {name for name, _ in shape_only.named_parameters(remove_duplicate=False)} - set(wanted)
    if buffers := set(shape_only.state_dict()) - set(wanted) - aliases:
        return f"the files hold buffers ({min(buffers)})"
    if doubled := aliases & set(stored):
        return f"{min(doubled)} is tied to another weight and stored beside it"
    for name, parameter in wanted.items():
        if name not in stored:
            return f"the files hold no {name}"
        if stored[name].shape != tuple(parameter.shape):
            return f"{name} is {list(stored[name].shape)} in the files, {list(parameter.shape)} in the architecture"
    return None
