"""The final model in Hugging Face's layout, read back before it is called saved.

Weights come as a dictionary that the engine gathered: a model under ZeRO-3 has tensors of no elements in their place.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from extes_train.dialogue.files import sync_directory, write_text
from extes_train.errors import TrainingError
from extes_train.model.config import LoraConfig

if TYPE_CHECKING:
    from extes_train.config import TrainConfig

LARGEST_FILE = "5GB"


def save_final(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    tokenizer: Any,
    config: TrainConfig,
    out_dir: Path | str,
    card: Mapping[str, Any],
) -> None:
    """Write a full model or an adapter with tokenizer, generation config and card to `out_dir`, in one rename.

    `weights` is `Engine.full_state_dict()`; one process calls this. Raises TrainingError when what was written does
    not read back whole: every name that the architecture needs, every value, no tensor without elements.
    """
    out_dir = Path(out_dir)
    temporary = out_dir.with_name(f".{out_dir.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        if hasattr(model, "peft_config"):
            _write_adapter(model, weights, config, temporary)
        else:
            write_weights(model, weights, temporary)
        _write_tokenizer(tokenizer, config, temporary)
        write_text(temporary / "README.md", model_card(model, config, card))
        _move_into_place(temporary, out_dir)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_weights(model: Any, weights: Mapping[str, Tensor], folder: Path) -> None:
    """config.json, generation_config.json and safetensors of a full model, checked."""
    from huggingface_hub import save_torch_state_dict

    tied = set(getattr(model, "_tied_weights_keys", None) or ())
    kept = {name: weight.contiguous() for name, weight in weights.items() if not (tied and _is_tied(model, name, tied))}
    save_torch_state_dict(kept, folder, max_shard_size=LARGEST_FILE)
    model.config.save_pretrained(folder)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.save_pretrained(folder)
    _check_written(kept, folder)
    missing = _names_needed(model, tied) - set(kept)
    if missing:
        raise TrainingError(f"{folder}: the saved model lacks {', '.join(sorted(missing)[:5])}")


def _is_tied(model: Any, name: str, tied: set[str]) -> bool:
    return bool(getattr(model.config, "tie_word_embeddings", False)) and name in tied


def _names_needed(model: Any, tied: set[str]) -> set[str]:
    """Names a fresh model of this configuration has, without those that are tied to another."""
    with torch.device("meta"):
        fresh = type(model)(model.config)
    ties = tied if getattr(model.config, "tie_word_embeddings", False) else set()
    return {name for name in fresh.state_dict() if name not in ties}


def _write_adapter(model: Any, weights: Mapping[str, Tensor], config: TrainConfig, folder: Path) -> None:
    import copy

    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    lost = {name for name, parameter in model.named_parameters() if parameter.requires_grad} - set(weights)
    if lost:
        raise TrainingError(f"{folder}: trained weights are missing: {', '.join(sorted(lost)[:5])}")
    # an adapted lm_head is saved as its adapter: the base's own matrix stays with the base
    adapter = get_peft_model_state_dict(model, state_dict=dict(weights), save_embedding_layers=False)
    adapter = {name: weight.contiguous() for name, weight in adapter.items()}
    moved = sum(weight.numel() for weight in weights.values())
    if sum(weight.numel() for weight in adapter.values()) != moved:
        raise TrainingError(f"{folder}: the adapter holds fewer weights than were trained ({moved})")
    save_file(adapter, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = copy.copy(model.peft_config["default"])
    settings.inference_mode = True
    settings.base_model_name_or_path = base_model_name(config)
    settings.save_pretrained(str(folder))
    _check_written(adapter, folder)


def base_model_name(config: TrainConfig) -> str | None:
    """The base model's folder, absolute, or its hub id."""
    path = config.model.path
    return str(Path(path).expanduser().resolve()) if path and Path(path).expanduser().is_dir() else path


def _check_written(weights: Mapping[str, Tensor], folder: Path) -> None:
    """Read every tensor back and compare it. Raises TrainingError."""
    from safetensors import safe_open

    seen: set[str] = set()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (not a dictionary)
                seen.add(name)
                if name not in weights or not torch.equal(opened.get_tensor(name), weights[name]):
                    raise TrainingError(f"{file}: {name} does not read back as it was written")
                if weights[name].numel() == 0:
                    raise TrainingError(f"{file}: {name} has no elements")
    if seen != set(weights) or not seen:
        raise TrainingError(f"{folder}: not written: {', '.join(sorted(set(weights) - seen)[:5]) or 'any weight'}")


def _write_tokenizer(tokenizer: Any, config: TrainConfig, folder: Path) -> None:
    """The tokenizer, with the chat template that training used where a file replaced its own."""
    if tokenizer is None:
        return
    template = config.model.chat_template
    before = getattr(tokenizer, "chat_template", None)
    try:
        if template is not None:
            tokenizer.chat_template = None if template == "plain" else Path(template).read_text(encoding="utf-8")
        tokenizer.save_pretrained(str(folder))
    finally:
        if template is not None:
            tokenizer.chat_template = before


def _move_into_place(temporary: Path, out_dir: Path) -> None:
    old = out_dir.with_name(f".{out_dir.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out_dir.exists():
        os.replace(out_dir, old)
    os.replace(temporary, out_dir)
    sync_directory(out_dir.parent)
    shutil.rmtree(old, ignore_errors=True)


def model_card(model: nn.Module, config: TrainConfig, card: Mapping[str, Any]) -> str:
    """README.md of the model folder: what it is, what it was trained on, what it must not be used for."""
    adapter, base = hasattr(model, "peft_config"), base_model_name(config)
    tags = ["emotional-support", "extes", f"tuning-{config.tuning.name}", f"augmentation-{config.augmentation.name}"]
    header: dict[str, Any] = {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": tags,
    }
    if base:
        header["base_model"] = base
    facts = {
        "tuning": _described_tuning(config), "augmentation": config.augmentation.name, "layout": config.tokens.layout,
        "ZeRO stage": config.zero.stage, "dtype": config.model.dtype, "learning rate": config.optim.lr,
        "dialogues per step": config.optim.dialogues_per_step, "seed": config.seed, **card,
    }  # fmt: skip
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in header.items()), "---", ""]
    lines += [f"# {'Adapter' if adapter else 'Model'} for emotional-support dialogue", ""]
    lines += [f"Trained with ExTES from {base or 'a new model'} to answer as the supporter of a dialogue.", ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items()), ""]
    lines += [
        "It is a research model. It is no therapist, it can be wrong or harmful, and it must not be the only help of a",
        "person in a crisis.",
        "",
    ]
    return "\n".join(lines)


def _described_tuning(config: TrainConfig) -> str:
    tuning = config.tuning
    if isinstance(tuning, LoraConfig):
        return f"{tuning.name}, r={tuning.r}, alpha={tuning.alpha:g}"
    return tuning.name
