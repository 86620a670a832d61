"""Attention over token trees: the backends behind one small interface.

`use_attention` sets a backend on the model; `attention_inputs` is what the forward pass hands down for a
row. A row travels as a keyword argument, not in a context: gradient checkpointing runs the layers a second time in the
backward pass and must find the same row.

    auto         whichever of these is fastest for a row (choosing.py)
    structured   no cost for masked pairs: PyTorch's CPU kernels (structured.py), its flash kernels on a GPU (flash.py)
    sdpa         dense bool mask; the reference, everywhere
    eager        dense additive mask
    flex         FlexAttention with a block mask made once per row (flex.py); GPU
    varlen       variable-length flash attention of the package flash-attn (varlen.py); GPU
    stock        the model's own, for architectures that take no rows: flat samples as a padded batch (stock.py)
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from extes_train.errors import ConfigError, LayoutError
from extes_train.model.batch import RowBatch

log = logging.getLogger(__name__)

OURS = ("auto", "structured", "flex", "varlen")
PREFIX = "extes_"
TreeAttentionFunction = Callable[[Tensor, Tensor, Tensor, RowBatch, "float | None", float], Tensor]


def use_attention(model: nn.Module, name: str, device: torch.device | str = "cpu", longest: int | None = None) -> str:
    """Set the attention backend of `model` and return its name; `auto` becomes `stock` where rows cannot go.

    `longest`: tokens of the longest path (None: what the model was made for). Raises ConfigError where `name` cannot
    run on `device` or with this architecture, or fails its trial on a GPU (trial.py).
    """
    from extes_train.model.architectures import row_obstacle
    from extes_train.model.forward import causal_lm
    from extes_train.model.stock import set_stock

    inner = causal_lm(model)
    obstacle = row_obstacle(inner.config, longest)
    if obstacle is not None and name not in ("auto", "stock"):
        raise ConfigError(f"model.attention={name}: {obstacle}; set model.attention=auto")
    reason = obstacle or ("model.attention=stock" if name == "stock" else None)
    set_stock(model, reason)
    if reason is not None:
        if inner.config._attn_implementation.startswith(PREFIX):
            inner.set_attn_implementation("sdpa")
        log.info("attention=stock: %s", reason)
        return "stock"
    chosen = choose(name, torch.device(device).type)
    _check_trial(model, chosen, device)
    register()
    inner.set_attn_implementation(PREFIX + chosen if chosen in OURS else chosen)
    log.info("attention=%s", chosen)
    return chosen


def choose(name: str, device_type: str) -> str:
    """The backend that `name` stands for, checked against the device; `auto` decides row by row (choosing.py)."""
    cuda = device_type == "cuda"
    if name == "flash_attention_2":
        name = "varlen"
    if name == "flex" and not cuda:
        raise ConfigError("model.attention=flex: FlexAttention trains on a GPU only; use structured or sdpa here")
    if name == "varlen" and not (cuda and flash_attn_installed()):
        raise ConfigError(
            "model.attention=varlen needs a GPU and the package flash-attn (pip install -e .[gpu]); "
            "use auto, sdpa or structured here"
        )
    return name


def _check_trial(model: nn.Module, name: str, device: torch.device | str) -> None:
    """ConfigError where a GPU backend that the user named computes something else; `auto` passes over such."""
    from extes_train.model.trial import failure, model_heads

    if torch.device(device).type != "cuda" or name not in OURS or name == "auto":
        return
    reason = failure(name, model_heads(model, device))
    if reason is not None:
        raise ConfigError(f"model.attention={name} cannot be used on this device: {reason}; set model.attention=auto")


@cache
def flash_attn_installed() -> bool:
    """True where the package flash-attn is."""
    return importlib.util.find_spec("flash_attn") is not None


@cache
def tree_backend(name: str) -> TreeAttentionFunction:
    """(query, key, value (1, h, T, D), row, scaling, dropout) -> (1, T, h, D) of one of OURS."""
    from extes_train.model.choosing import auto_tree_attention
    from extes_train.model.flex import flex_tree_attention
    from extes_train.model.structured import structured_tree_attention
    from extes_train.model.varlen import varlen_tree_attention

    functions = (auto_tree_attention, structured_tree_attention, flex_tree_attention, varlen_tree_attention)
    return dict(zip(OURS, functions, strict=True))[name]


def register() -> None:
    """Make our backends known to transformers. Without a row they behave as `sdpa`, masks included."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    for name in OURS:
        AttentionInterface.register(PREFIX + name, _for_transformers(tree_backend(name)))
        AttentionMaskInterface.register(PREFIX + name, sdpa_mask)


def _for_transformers(function: TreeAttentionFunction) -> Callable[..., Any]:
    """`function` as transformers calls it. A layer that was not handed the row would see every token of it without an
    error, so it is refused; calls that are no rows at all (generation) go through `sdpa`."""

    def forward(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        row: RowBatch | None = None,
        **rest: Any,
    ) -> tuple[Tensor, Tensor | None]:
        if row is not None:
            return function(query, key, value, row, scaling, dropout), None
        if mask is not None and mask.shape[-1] != key.shape[-2]:
            raise LayoutError(f"{type(module).__name__} does not hand a row down to its attention; tokens.layout=flat")
        return _sdpa(module, query, key, value, mask, scaling=scaling, dropout=dropout, **rest)

    return forward


def attention_inputs(config: Any, batch: RowBatch, dtype: torch.dtype) -> dict[str, Any]:
    """Keyword arguments of the decoder's forward pass for this row under the model's backend."""
    implementation = config._attn_implementation
    if implementation.startswith(PREFIX):
        # a 4-D mask is passed on as it is, so transformers builds none of its own; ours do not look at it
        if "unused" not in batch.cache:
            batch.cache["unused"] = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=batch.device)
        return {"attention_mask": batch.cache["unused"], "row": batch}
    if implementation == "sdpa":
        return {"attention_mask": batch.allowed_TT()[None, None]}
    if implementation == "eager":
        return {"attention_mask": _additive(batch, dtype)}
    raise ConfigError(f"model.attention: rows cannot go through {implementation!r}; call use_attention first")


def _additive(batch: RowBatch, dtype: torch.dtype) -> Tensor:
    """eager adds its mask to the scores: a bool mask there would be wrong without an error."""
    key = f"additive {dtype}"
    if key not in batch.cache:
        allowed_TT = batch.allowed_TT()
        mask_TT = torch.zeros(allowed_TT.shape, dtype=dtype, device=batch.device)
        batch.cache[key] = mask_TT.masked_fill(~allowed_TT, torch.finfo(dtype).min)[None, None]
    return batch.cache[key]


def _sdpa(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **rest: Any) -> Any:
    """transformers' sdpa, for calls that are not rows (generation with a cache)."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(module, query, key, value, mask, **rest)


def dense_tree_attention(
    query: Tensor, key: Tensor, value: Tensor, row: RowBatch, scaling: float | None = None, dropout: float = 0.0
) -> Tensor:
    """query, key, value (1, h, T, D) -> (1, T, h, D) with the row's dense mask."""
    times = query.shape[1] // key.shape[1]
    key, value = repeat_heads(key, times), repeat_heads(value, times)
    mask = row.allowed_TT()[None, None]
    out_1hTD = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling)
    return out_1hTD.transpose(1, 2).contiguous()


def repeat_heads(tensor: Tensor, times: int) -> Tensor:
    """(B, h, T, D) -> (B, h * times, T, D), each head repeated next to itself (grouped-query attention)."""
    return tensor if times == 1 else tensor.repeat_interleave(times, dim=1)
