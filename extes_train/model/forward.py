"""The hidden states of a packed row: explicit positions, no cache, the attention backend's mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from extes_train.model.attention import attention_inputs
from extes_train.model.batch import RowBatch


def causal_lm(model: nn.Module) -> Any:
    """The `...ForCausalLM` inside a PeftModel, or `model` itself. Adapters sit inside its layers."""
    inner: Any = model
    if hasattr(inner, "peft_config") and hasattr(inner, "base_model"):
        inner = inner.base_model  # LoraModel or the like
        inner = getattr(inner, "model", inner)
    return inner


def decoder(model: nn.Module) -> Any:
    """The stack of layers below the language-model head."""
    return causal_lm(model).get_decoder()


def output_head(model: nn.Module) -> nn.Module:
    """The language-model head."""
    return causal_lm(model).get_output_embeddings()


def hidden_states(model: nn.Module, batch: RowBatch) -> Tensor:
    """Final hidden states (T, H) of the row, after the last norm and before the head."""
    inner = decoder(model)
    output = inner(
        input_ids=batch.ids_1T,
        position_ids=batch.position_1T,
        use_cache=False,
        **attention_inputs(inner.config, batch, next_dtype(model)),
    )
    return output.last_hidden_state[0]


def next_dtype(model: nn.Module) -> torch.dtype:
    """dtype of the model's activations: that of its embedding weights."""
    return causal_lm(model).get_input_embeddings().weight.dtype
