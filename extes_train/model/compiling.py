"""torch.compile where it applies: the parts of a decoder layer between the attention calls.

Attention looks at the row's trees, Python objects that differ in every row; compiled as a whole, a layer would be
compiled again for each row. Norms and MLPs see plain tensors, and are where fusing pays. Lengths are dynamic.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from extes_train.errors import ConfigError

PARTS = ("input_layernorm", "post_attention_layernorm", "mlp")


def compile_layers(model: nn.Module, zero_stage: int, backend: str = "inductor") -> int:
    """Compile norms and MLPs of every layer in place; the first rows then take minutes. Returns how many were compiled.

    Raises ConfigError under ZeRO-3, whose hooks gather weights around each of these modules, and for a model without
    such parts.
    """
    from extes_train.model.forward import decoder

    if zero_stage == 3:
        raise ConfigError("model.compile=true does not go with zero.stage=3: its hooks gather the weights; use stage 2")
    inner: Any = decoder(model)
    layers = getattr(inner, "layers", [])
    parts = [part for layer in layers for name in PARTS if (part := getattr(layer, name, None)) is not None]
    if not parts:
        raise ConfigError(f"model.compile=true: {type(inner).__name__} has no layers of norms and MLPs to compile")
    for part in parts:
        part.compile(dynamic=True, backend=backend)
    return len(parts)
