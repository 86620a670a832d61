"""Which architectures take packed rows and token trees, and why others do not.

A row holds several samples or trees; a model computes each token of it exactly as in a sequence of its own if its only
ties between tokens are attention through transformers' interface, which hands our backends the row, and positions read
from `position_ids`; and if logits are its head and nothing more. Every type named here is held against plain
transformers, one sample at a time, in tests/model/test_architectures.py. Others run on the flat layout, each row as a
padded batch through the model's own forward pass (stock.py).
"""

from __future__ import annotations

from typing import Any

from extes_train.errors import LayoutError

TREE_MODEL_TYPES = (
    "llama", "mistral", "ministral", "ministral3", "mixtral", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "gemma",
    "gemma3_text", "phi", "phi3", "olmo", "olmo2", "olmo3", "olmoe", "smollm3", "granite", "starcoder2", "gpt2",
    "gpt_neox", "gptj", "glm", "glm4", "helium", "arcee", "apertus", "exaone4", "ernie4_5", "hunyuan_v1_dense",
    "internlm3", "cwm", "seed_oss",
)  # fmt: skip


def row_obstacle(model_config: Any, longest: int | None = None) -> str | None:
    """Why rows cannot go through a model with this configuration, None where they can.

    `longest`: tokens of the longest path; None: as many as the model was made for.
    """
    name = getattr(model_config, "model_type", "?")
    if name not in TREE_MODEL_TYPES:
        return f"model type {name!r} is not known to take token trees (known: {', '.join(TREE_MODEL_TYPES)})"
    needed = longest or getattr(model_config, "max_position_embeddings", 0) or 0
    return _window(model_config, needed) or _positions(model_config, needed) or _logits(model_config)


def check_takes_trees(model_config: Any, longest: int | None = None) -> None:
    """LayoutError unless the architecture is known to compute a branch exactly as a sequence of its own."""
    obstacle = row_obstacle(model_config, longest)
    if obstacle is not None:
        raise LayoutError(f"{obstacle}; set tokens.layout=flat")


def _window(config: Any, needed: int) -> str | None:
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and "sliding_attention" not in kinds:
        return None
    if not window or getattr(config, "use_sliding_window", True) is False or window >= needed:
        return None
    return (
        f"{config.model_type} attends to a sliding window of {window} tokens, shorter than the context of {needed} "
        f"(model.context_length={window} would fit)"
    )


def _positions(config: Any, needed: int) -> str | None:
    """longrope picks its factors by the longest position of the batch, so neighbours in a row would change them."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = rope.values() if any(isinstance(value, dict) for value in rope.values()) else [rope]
    if not any(isinstance(kind, dict) and kind.get("rope_type") == "longrope" for kind in kinds):
        return None
    made_for = getattr(config, "original_max_position_embeddings", None) or next(
        (kind["original_max_position_embeddings"] for kind in kinds if kind.get("original_max_position_embeddings")), 0
    )
    if made_for and needed <= made_for:
        return None
    return (
        f"{config.model_type} scales its positions by the length of the batch (longrope) beyond {made_for} tokens, and "
        f"the context has {needed} (model.context_length={made_for} would fit)"
    )


def _logits(config: Any) -> str | None:
    for key, nothing in (("final_logit_softcapping", None), ("attn_logit_softcapping", None), ("logits_scaling", 1.0)):
        value = getattr(config, key, nothing)
        if value is not None and value != nothing:
            return f"{config.model_type} changes its scores after the head or inside attention ({key}={value})"
    return None
