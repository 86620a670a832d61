"""Tree attention on a CPU without paying for masked pairs.

One causal call per trunk; per supporter turn one call of its branches' queries on the trunk prefix and themselves.
Shapes: 1 row, h heads, T tokens, D head size; L tokens of a branch group, P of its trunk prefix.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from extes_train.model.attention import repeat_heads, sdpa_without_row
from extes_train.model.batch import BranchGroup, RowBatch


def structured_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    row: RowBatch | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: query, key, value (1, h, T, D) -> (1, T, h, D)."""
    if row is None:
        return sdpa_without_row(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest)
    times = query.shape[1] // key.shape[1]
    key, value = repeat_heads(key, times), repeat_heads(value, times)
    out_1hTD = tree_attention(query, key, value, row, scaling, dropout)
    return out_1hTD.transpose(1, 2), None


def tree_attention(
    query: Tensor, key: Tensor, value: Tensor, row: RowBatch, scaling: float | None, dropout: float = 0.0
) -> Tensor:
    """Attention (1, h, T, D) of every token on what its tree lets it see."""
    parts = []
    for tree in row.spans:
        trunk = slice(tree.start, tree.trunk_end)
        q, k, v = query[:, :, trunk], key[:, :, trunk], value[:, :, trunk]
        parts.append(F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling))
        for group in tree.groups:
            own, prefix = slice(group.start, group.end), group.attach - tree.start
            k_group = torch.cat([k[:, :, :prefix], key[:, :, own]], dim=2)
            v_group = torch.cat([v[:, :, :prefix], value[:, :, own]], dim=2)
            mask = group_mask(row, group, prefix, query.dtype)
            parts.append(
                F.scaled_dot_product_attention(
                    query[:, :, own], k_group, v_group, attn_mask=mask, dropout_p=dropout, scale=scaling
                )
            )
    return torch.cat(parts, dim=2)


def group_mask(row: RowBatch, group: BranchGroup, prefix: int, dtype: torch.dtype) -> Tensor:
    """Additive mask (L, P + L): the whole prefix, then each branch causally on itself. Made once per row."""
    name = f"group {group.start} {dtype}"
    if name not in row.cache:
        allowed_LL = torch.block_diag(*(torch.ones(n, n, device=row.device).tril() for n in group.lengths)).bool()
        own_LL = torch.zeros(allowed_LL.shape, dtype=dtype, device=row.device).masked_fill(~allowed_LL, -torch.inf)
        row.cache[name] = F.pad(own_LL, (prefix, 0))
    return row.cache[name]
