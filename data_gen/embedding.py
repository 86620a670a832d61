"""Vectors of sentences from a local model, as sentence-transformers folders describe them: pooled, of length 1.

Only transformers is needed. What a folder may ask for beyond mean or first-token pooling is refused by name, so that
no model is used otherwise than it was trained (Reimers and Gurevych 2019, https://arxiv.org/abs/1908.10084).
Shapes: N texts, T tokens, D the model's width.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from extes_train.errors import ConfigError

POOLING = {
    **{"pooling_mode_mean_tokens": "mean", "mean": "mean"},
    **{"pooling_mode_cls_token": "first", "cls": "first"},
}  # a mode in the folder's config -> what is done
KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")
LONGEST_TOKENS = 512  # read of a sentence where the folder names no limit


class SentenceModel:
    """`model.vectors(texts)`. Built by `load_sentence_model`."""

    def __init__(self, tokenizer: Any, model: Any, pooling: str, max_tokens: int) -> None:
        self._tokenizer, self._model, self._pooling, self.max_tokens = tokenizer, model, pooling, max_tokens

    def vectors(self, texts: Sequence[str]) -> Any:
        """float32 array (texts, width), rows of length 1; of a longer text the first `max_tokens` tokens are read."""
        import torch

        batch = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        with torch.inference_mode():
            hidden_NTD = self._model(**batch).last_hidden_state.float()
        mask_NT1 = batch["attention_mask"].unsqueeze(-1).float()
        mean_ND = (hidden_NTD * mask_NT1).sum(1) / mask_NT1.sum(1).clamp(min=1)
        pooled_ND = mean_ND if self._pooling == "mean" else hidden_NTD[:, 0]
        return torch.nn.functional.normalize(pooled_ND, dim=-1).numpy()


@functools.cache
def load_sentence_model(folder: str) -> SentenceModel:
    """The model in `folder` (config.json, safetensors, tokenizer). Nothing is downloaded. Raises ConfigError."""
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise ConfigError(
            f"inpaint.embedding_model={folder}: must be a folder with config.json, model.safetensors and a tokenizer; "
            f"nothing is downloaded"
        )
    pooling = _pooling(path)
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # it would break the live view
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"inpaint.embedding_model={folder}: cannot be loaded: {reason}") from error
    named = _json(path / "sentence_bert_config.json").get("max_seq_length")
    limits = (named, getattr(model.config, "max_position_embeddings", None), tokenizer.model_max_length)
    return SentenceModel(tokenizer, model, pooling, min([LONGEST_TOKENS, *(int(limit) for limit in limits if limit)]))


def _pooling(path: Path) -> str:
    """`mean` or `first`, from modules.json and the pooling module's config; a plain model is pooled by the mean."""
    modules = _json(path / "modules.json", [])
    for module in modules:
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind not in KNOWN_MODULES:
            raise ConfigError(
                f"inpaint.embedding_model={path}: modules.json names {kind}; known are {', '.join(KNOWN_MODULES)}"
            )
    folder = next((m.get("path", "") for m in modules if str(m.get("type", "")).endswith(".Pooling")), "1_Pooling")
    config = _json(path / folder / "config.json") if folder else {}
    modes = [key for key, on in config.items() if key.startswith("pooling_mode_") and on is True]
    if isinstance(config.get("pooling_mode"), str):  # the newer spelling
        modes = [config["pooling_mode"]]
    if len(modes) > 1 or (modes and modes[0] not in POOLING):
        raise ConfigError(
            f"inpaint.embedding_model={path}: pools by {' and '.join(modes)}; known are the mean and the first token"
        )
    return POOLING[modes[0]] if modes else "mean"


def _json(path: Path, default: Any = None) -> Any:
    if not path.is_file():
        return {} if default is None else default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"inpaint.embedding_model: {path}: no JSON: {error}") from error
