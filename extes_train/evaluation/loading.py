"""The model of a run for measuring and talking: full weights, or an adapter on its base."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from extes_train.dialogue.files import digest_of
from extes_train.errors import ModelError
from extes_train.model.config import ModelConfig


def is_adapter(folder: Path) -> bool:
    """True for a folder that peft wrote."""
    return (folder / "adapter_config.json").is_file()


def tuned_folder(run_dir: str, model: str | None) -> Path:
    """`evaluation.model`, else RUN/model. Raises ModelError where nothing is there."""
    folder = Path(model) if model else Path(run_dir) / "model"
    if not folder.is_dir():
        hint = "" if model else "; train first (extes train), or name a folder with evaluation.model"
        raise ModelError(f"{folder}: no such folder{hint}")
    if not is_adapter(folder) and not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: neither a model (config.json) nor an adapter (adapter_config.json)")
    return folder


def base_config(config: ModelConfig, folder: Path) -> ModelConfig:
    """`config`, with the base named by the adapter, or the folder itself, where no model.path is given."""
    if config.path is not None:
        return config
    if not is_adapter(folder):
        return replace(config, name="llama", path=str(folder))
    from extes_train.dialogue.files import read_json

    return replace(config, name="llama", path=read_json(folder / "adapter_config.json")["base_model_name_or_path"])


def load_tuned(config: ModelConfig, folder: Path, device: torch.device | str) -> Any:
    """The model in `folder`, an adapter on the base model of `config`; attention as `config` says."""
    from extes_train.model.attention import use_attention
    from extes_train.model.loading import load_model

    if is_adapter(folder):
        from peft import PeftModel

        model: Any = PeftModel.from_pretrained(load_model(config), str(folder))
    else:
        model = load_model(replace(config, path=str(folder), random_weights=False, revision=None))
    use_attention(model, config.attention, device, config.context_length)
    return model.to(device).eval()


def load_base(config: ModelConfig, device: torch.device | str) -> Any:
    """The base model of `config`, attention as it says."""
    from extes_train.model.attention import use_attention
    from extes_train.model.loading import load_model

    model: Any = load_model(config)
    use_attention(model, config.attention, device, config.context_length)
    return model.to(device).eval()


def weights_key(config: ModelConfig) -> str | None:
    """Names the weights of a base model by path, size and time of its files; None where they are drawn anew."""
    if config.random_weights or config.path is None:
        return None
    folder = Path(config.path)
    files: list[Any] = [config.path, config.revision]
    if folder.is_dir():
        named = sorted([*folder.glob("*.safetensors"), folder / "config.json"])
        files = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in named if file.is_file()]
        files.append(str(folder.resolve()))
    return digest_of([files, config.dtype])


def measuring_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
