"""Tree attention without paying for masked pairs; on a CPU without copying keys. On a GPU it is flash.py's two calls.

A trunk is one causal call. A branch sees two pieces, itself (one causal call) and the trunk before its turn (one call
for all branches of the turn), joined by their log-sum-exp as in ring attention (arXiv 2310.01889). The backward pass
calls PyTorch's own kernel for each piece with the joined output, which gives the exact gradient of the whole, and adds
it in place: autograd through slices would write a full-size tensor of zeros for every slice.

Shapes: 1 row, h heads, T tokens, D head size; L tokens of a branch group, P of its trunk prefix.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from extes_train.model.attention import repeat_heads
from extes_train.model.batch import BranchGroup, RowBatch
from extes_train.model.flash import flash_fits, flash_tree_attention

# forward returns (output, log-sum-exp); both are what scaled_dot_product_attention itself calls on a CPU
_forward_kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_backward_kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


def structured_tree_attention(
    query: Tensor, key: Tensor, value: Tensor, row: RowBatch, scaling: float | None = None, dropout: float = 0.0
) -> Tensor:
    """query, key, value (1, h, T, D) -> (1, T, h, D)."""
    if not dropout and _one_dtype(query, key, value) and flash_fits(query.device.type, query.dtype, query.shape[-1]):
        return flash_tree_attention(query, key, value, row, scaling)
    times = query.shape[1] // key.shape[1]
    key, value = repeat_heads(key, times), repeat_heads(value, times)
    out_1hTD = tree_attention(query, key, value, row, scaling, dropout)
    return out_1hTD.transpose(1, 2)


def tree_attention(
    query: Tensor, key: Tensor, value: Tensor, row: RowBatch, scaling: float | None, dropout: float = 0.0
) -> Tensor:
    """Attention (1, h, T, D) of every token on what its tree lets it see."""
    if dropout or query.device.type != "cpu" or not _one_dtype(query, key, value):
        return _by_calls(query, key, value, row, scaling, dropout)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    return TreeAttention.apply(query, key, value, row, scale)


def _one_dtype(query: Tensor, key: Tensor, value: Tensor) -> bool:
    return query.dtype == key.dtype == value.dtype


class TreeAttention(torch.autograd.Function):
    """Attention of a whole row with a gradient of our own. No dropout; CPU."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, row: RowBatch, scale: float) -> Tensor:
        batch, heads, length, size = query.shape
        out = query.new_empty(batch, length, heads, size).transpose(1, 2)  # as the layer after it reads it
        sums = query.new_empty(batch, heads, length, dtype=torch.float32)  # log-sum-exp of the scores
        lengths, groups = _pieces(row)
        for o, s, q, k, v in zip(*(x.split(lengths, 2) for x in (out, sums, query, key, value)), strict=True):
            own_out, own_sums = _forward_kernel(q, k, v, 0.0, True, scale=scale)
            o.copy_(own_out)
            s.copy_(own_sums)
        for own, prefix in groups:
            before = _forward_kernel(query[:, :, own], key[:, :, prefix], value[:, :, prefix], scale=scale)
            _join(out[:, :, own], sums[:, :, own], *before)
        ctx.save_for_backward(query, key, value, out, sums)
        ctx.row, ctx.scale = row, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, sums = ctx.saved_tensors
        lengths, groups = _pieces(ctx.row)
        dtype = query.dtype
        if groups and dtype != torch.float32:  # PyTorch's kernel for few queries is two to four times faster in fp32
            grad_out, query, key, value, out = (_float_rows(x) for x in (grad_out, query, key, value, out))
        gradients = tuple(_like_rows(x) for x in (query, key, value))
        given = (x.split(lengths, 2) for x in (grad_out, query, key, value, out, sums))
        wanted = zip(*(x.split(lengths, 2) for x in gradients), strict=True)
        for piece, into in zip(zip(*given, strict=True), wanted, strict=True):
            for gradient, part in zip(into, _backward_kernel(*piece, 0.0, True, scale=ctx.scale), strict=True):
                gradient.copy_(part)
        for own, prefix in groups:
            parts = _backward_kernel(
                grad_out[:, :, own], query[:, :, own], key[:, :, prefix], value[:, :, prefix], out[:, :, own],
                sums[:, :, own], 0.0, False, scale=ctx.scale,
            )  # fmt: skip
            for gradient, part, where in zip(gradients, parts, (own, prefix, prefix), strict=True):
                gradient[:, :, where] += part
        return *(gradient.to(dtype) for gradient in gradients), None, None


def _pieces(row: RowBatch) -> tuple[list[int], list[tuple[slice, slice]]]:
    """Lengths of all trunks and branches, in row order; and the (queries, keys) of branches on their trunk."""
    if "pieces" not in row.cache:
        lengths: list[int] = []
        groups: list[tuple[slice, slice]] = []
        for tree in row.spans:
            lengths.append(tree.trunk_end - tree.start)
            for group in tree.groups:
                lengths += group.lengths
                if group.attach > tree.start:
                    groups.append((slice(group.start, group.end), slice(tree.start, group.attach)))
        row.cache["pieces"] = lengths, groups
    return row.cache["pieces"]


def _float_rows(tensor: Tensor) -> Tensor:
    """(1, h, T, D) in fp32, laid out as (1, T, h, D)."""
    return _like_rows(tensor, torch.float32).copy_(tensor)


def _like_rows(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Uninitialised (1, h, T, D) laid out as (1, T, h, D), which is how the projections before it are."""
    batch, heads, length, size = tensor.shape
    return tensor.new_empty(batch, length, heads, size, dtype=dtype).transpose(1, 2)


def _join(out: Tensor, sums: Tensor, other: Tensor, other_sums: Tensor) -> None:
    """Make `out` and `sums`, attention over some keys, that over those keys and others disjoint from them."""
    joined = torch.logaddexp(sums, other_sums)
    out.mul_((sums - joined).exp_()[..., None].to(out.dtype))
    out.addcmul_(other, (other_sums - joined).exp_()[..., None].to(out.dtype))
    sums.copy_(joined)


def own_mask(row: RowBatch, group: BranchGroup, dtype: torch.dtype) -> Tensor:
    """Additive mask (L, L): each branch of the group causally on itself. Made once per row."""
    name = f"own {group.start} {dtype}"
    if name not in row.cache:
        allowed_LL = torch.block_diag(*(torch.ones(n, n, device=row.device).tril() for n in group.lengths)).bool()
        zeros_LL = torch.zeros(allowed_LL.shape, dtype=dtype, device=row.device)
        row.cache[name] = zeros_LL.masked_fill(~allowed_LL, -torch.inf)
    return row.cache[name]


def _by_calls(
    query: Tensor, key: Tensor, value: Tensor, row: RowBatch, scaling: float | None, dropout: float
) -> Tensor:
    """The same through scaled_dot_product_attention and autograd: dropout, mixed types, fp32 on a GPU."""
    parts = []
    for tree in row.spans:
        trunk = slice(tree.start, tree.trunk_end)
        q, k, v = query[:, :, trunk], key[:, :, trunk], value[:, :, trunk]
        parts.append(F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling))
        for group in tree.groups:
            own, prefix = slice(group.start, group.end), group.attach - tree.start
            k_group = torch.cat([k[:, :, :prefix], key[:, :, own]], dim=2)
            v_group = torch.cat([v[:, :, :prefix], value[:, :, own]], dim=2)
            mask = F.pad(own_mask(row, group, query.dtype), (prefix, 0))
            parts.append(
                F.scaled_dot_product_attention(
                    query[:, :, own], k_group, v_group, attn_mask=mask, dropout_p=dropout, scale=scaling
                )
            )
    return torch.cat(parts, dim=2)
