"""Tree attention through FlexAttention: the block mask is made once per row and shared by all layers. GPU only."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from extes_train.model.batch import RowBatch


def flex_tree_attention(
    query: Tensor, key: Tensor, value: Tensor, row: RowBatch, scaling: float | None = None, dropout: float = 0.0
) -> Tensor:
    """query, key, value (1, h, T, D) -> (1, T, h, D). FlexAttention has no dropout."""
    flex = _flex_attention(query.device.type)
    out_1hTD = flex(
        query, key, value, block_mask=block_mask(row), scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
    )
    return out_1hTD.transpose(1, 2)


def block_mask(row: RowBatch) -> Any:
    """The row's block mask."""
    if "block_mask" not in row.cache:
        from torch.nn.attention.flex_attention import create_block_mask

        tree_T, branch_T, attach_T = row.tree_T, row.branch_T, row.attach_T

        def allowed(_batch: Tensor, _head: Tensor, q: Tensor, k: Tensor) -> Tensor:
            same = branch_T[k] == branch_T[q]
            prefix = (branch_T[k] == 0) & (k < attach_T[q])
            return (tree_T[q] == tree_T[k]) & (k <= q) & (same | prefix)

        length = tree_T.numel()
        row.cache["block_mask"] = create_block_mask(allowed, None, None, length, length, device=str(row.device))
    return row.cache["block_mask"]


@cache
def _flex_attention(device_type: str) -> Any:
    """Compiled on a GPU; rows differ in length, so shapes are dynamic."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True) if device_type == "cuda" else flex_attention
