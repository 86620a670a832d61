"""An adapter merged into its base model, checked: the merged model must give the adapter's logits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from extes_train.dialogue.files import read_json
from extes_train.errors import ModelError, TrainingError
from extes_train.model.config import ModelConfig
from extes_train.model.loading import load_model, load_tokenizer
from extes_train.model.saving import write_weights

TOLERANCE = 1e-4  # of the largest logit, fp32
PROBE_TOKENS = 64


def merge_adapter(adapter: Path | str, out_dir: Path | str, base: str | None = None) -> float:
    """Write the merged model of an adapter folder to `out_dir`; returns the largest relative difference of logits.

    `base` replaces the base model that the adapter names. Merging is done in fp32 and saved in the base's dtype.
    Raises ModelError for a folder that is no mergeable adapter, TrainingError where the merge changes the logits.
    """
    import peft

    adapter, out_dir = Path(adapter), Path(out_dir)
    settings_file = adapter / "adapter_config.json"
    if not settings_file.is_file():
        raise ModelError(f"{adapter}: no adapter_config.json, so nothing to merge (a full model is ready as it is)")
    settings = read_json(settings_file)
    if settings.get("peft_type") != "LORA":
        raise ModelError(
            f"{adapter}: an adapter of type {settings.get('peft_type')} has no merged form; use it with its base"
        )
    config = ModelConfig(name="llama", path=base or settings.get("base_model_name_or_path"))
    saved_dtype = _saved_dtype(config)
    tuned: Any = peft.PeftModel.from_pretrained(load_model(config, dtype="fp32"), str(adapter)).eval()
    probe_1T = _probe(tuned.config.vocab_size)
    with torch.no_grad():
        want = tuned(input_ids=probe_1T, use_cache=False).logits
        merged = tuned.merge_and_unload()
        got = merged(input_ids=probe_1T, use_cache=False).logits
    difference = float((got - want).abs().max() / want.abs().max())
    if not difference <= TOLERANCE:
        raise TrainingError(f"{adapter}: merging changes the logits by {difference:.1e} (at most {TOLERANCE:.0e})")
    out_dir.mkdir(parents=True, exist_ok=True)
    merged = merged.to(saved_dtype)
    write_weights(merged, dict(merged.named_parameters()), out_dir)
    tokenizer_path = str(adapter) if (adapter / "tokenizer_config.json").is_file() else config.path
    load_tokenizer(replace(config, tokenizer=tokenizer_path)).save_pretrained(str(out_dir))
    return difference


def _saved_dtype(config: ModelConfig) -> torch.dtype:
    from transformers import AutoConfig

    return getattr(AutoConfig.from_pretrained(str(config.path)), "dtype", None) or torch.float32


def _probe(vocab_size: int) -> torch.Tensor:
    """(1, T) token ids, the same each time."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, vocab_size, (1, PROBE_TOKENS), generator=generator)
