"""Structured tree attention in two calls of a flash kernel for sequences of different lengths. GPU, bf16 and fp16.

One call computes all trunks and branches, each causally on itself; the other the branches of each turn on the trunk
before them, not causal, keys gathered once a turn. The two are joined by their log-sum-exp, and the backward pass
calls the kernel of each with the joined output, which gives the exact gradient of the whole (ring attention, arXiv
2310.01889). No causal call has queries and keys of different lengths, so how a kernel aligns them plays no part.

The kernels are those that PyTorch's CUDA builds carry for nested tensors; no other package is needed.

Shapes: T tokens of the row, B of its branches, K gathered keys, S sequences, h heads (fewer of keys and values in
grouped-query attention), D head size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from extes_train.model.batch import RowBatch, send

LARGEST_HEAD = 256


@dataclass(frozen=True)
class Sequences:
    """S sequences: where their queries and keys are in the row, offsets (int32, S + 1) among those, longest lengths."""

    query_index: Tensor
    key_index: Tensor
    query_offsets: Tensor
    key_offsets: Tensor
    longest_query: int
    longest_key: int


@dataclass(frozen=True)
class Kernels:
    """Attention of S sequences with their own gradient.

    forward(query, key, value, sequences, causal, scale) -> (output as query, log-sum-exp (h, queries) in fp32)
    backward(grad, query, key, value, output, log-sum-exp, sequences, causal, scale) -> gradients of the three
    """

    forward: Callable[..., tuple[Tensor, Tensor]]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]]


def flash_fits(device_type: str, dtype: torch.dtype, head_size: int) -> bool:
    """True where PyTorch's flash kernels take such heads."""
    half = dtype in (torch.bfloat16, torch.float16)
    return device_type == "cuda" and half and head_size % 8 == 0 and head_size <= LARGEST_HEAD


def flash_tree_attention(
    query: Tensor, key: Tensor, value: Tensor, row: RowBatch, scaling: float | None, kernels: Kernels | None = None
) -> Tensor:
    """query, key, value (1, h, T, D) -> (1, T, h, D)."""
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    tokens = (x[0].transpose(0, 1) for x in (query, key, value))
    return FlashTreeAttention.apply(*tokens, row, scale, kernels or FLASH)[None]


class FlashTreeAttention(torch.autograd.Function):
    """Attention of a whole row with a gradient of our own; (T, h, D). No dropout."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, row: RowBatch, scale: float, kernels: Kernels
    ) -> Tensor:
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        own, prefix = row_sequences(row)
        out, sums_hT = kernels.forward(query, key, value, own, True, scale)
        if prefix is not None:
            where_B = prefix.query_index
            given = (query.index_select(0, where_B), *(x.index_select(0, prefix.key_index) for x in (key, value)))
            before = kernels.forward(*given, prefix, False, scale)
            joined = _join(out.index_select(0, where_B), sums_hT.index_select(1, where_B), *before)
            out.index_copy_(0, where_B, joined[0])
            sums_hT.index_copy_(1, where_B, joined[1])
        ctx.save_for_backward(query, key, value, out, sums_hT)
        ctx.row, ctx.scale, ctx.kernels = row, scale, kernels
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, sums_hT = ctx.saved_tensors
        own, prefix = row_sequences(ctx.row)
        grad_out = grad_out.contiguous()
        gradients = ctx.kernels.backward(grad_out, query, key, value, out, sums_hT, own, True, ctx.scale)
        if prefix is not None:
            where_B, where_K = prefix.query_index, prefix.key_index
            parts = ctx.kernels.backward(
                grad_out.index_select(0, where_B), query.index_select(0, where_B), key.index_select(0, where_K),
                value.index_select(0, where_K), out.index_select(0, where_B), sums_hT.index_select(1, where_B),
                prefix, False, ctx.scale,
            )  # fmt: skip
            gradients[0].index_add_(0, where_B, parts[0])
            # a trunk token is a key of every later turn: so many small parts are summed in fp32
            sums = (
                gradient.float().index_add_(0, where_K, part.float()).to(gradient.dtype)
                for gradient, part in zip(gradients[1:], parts[1:], strict=True)
            )
            gradients = (gradients[0], *sums)
        return *gradients, None, None, None


def _join(out: Tensor, sums_hB: Tensor, other: Tensor, other_sums_hB: Tensor) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of attention over some keys and others disjoint from them, from both of each."""
    joined_hB = torch.logaddexp(sums_hB, other_sums_hB)
    share, other_share = ((x - joined_hB).exp().T[..., None] for x in (sums_hB, other_sums_hB))
    return (out * share + other * other_share).to(out.dtype), joined_hB


def row_sequences(row: RowBatch) -> tuple[Sequences, Sequences | None]:
    """All trunks and branches of the row; and the branches of each turn on their trunk prefix, None without any."""
    if "row sequences" not in row.cache:
        own: list[range] = []
        branches: list[range] = []
        prefixes: list[range] = []
        for tree in row.spans:
            own.append(range(tree.start, tree.trunk_end))
            for group in tree.groups:
                start = group.start
                for length in group.lengths:
                    own.append(range(start, start + length))
                    start += length
                if group.attach > tree.start:
                    branches.append(range(group.start, group.end))
                    prefixes.append(range(tree.start, group.attach))
        before = build_sequences(branches, [[prefix] for prefix in prefixes], row.device) if branches else None
        row.cache["row sequences"] = build_sequences(own, [[piece] for piece in own], row.device), before
    return row.cache["row sequences"]


def build_sequences(queries: list[range], keys: list[list[range]], device: torch.device) -> Sequences:
    """Sequences of these queries, each on all of its keys. Made on the host and sent without waiting."""
    query_lengths = [len(query) for query in queries]
    key_lengths = [sum(map(len, key)) for key in keys]
    return Sequences(
        send(_indices(queries), device),
        send(_indices(piece for key in keys for piece in key), device),
        send(_offsets(query_lengths), device),
        send(_offsets(key_lengths), device),
        max(query_lengths),
        max(key_lengths),
    )


def _indices(ranges: Iterable[range]) -> Tensor:
    return torch.cat([torch.arange(piece.start, piece.stop) for piece in ranges])


def _offsets(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def _flash_forward(
    query: Tensor, key: Tensor, value: Tensor, sequences: Sequences, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    out, sums, *_ = torch.ops.aten._flash_attention_forward(
        query, key, value, sequences.query_offsets, sequences.key_offsets, *_longest(sequences), 0.0, causal, False,
        scale=scale,
    )  # fmt: skip
    return out, sums


def _flash_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, sums: Tensor, sequences: Sequences,
    causal: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    # the state of the random generator, which only dropout reads
    state, unused = (torch.empty(size, dtype=torch.uint64, device=query.device) for size in (2, 0))
    return torch.ops.aten._flash_attention_backward(
        grad, query, key, value, out, sums, sequences.query_offsets, sequences.key_offsets, *_longest(sequences), 0.0,
        causal, state, unused, scale=scale,
    )  # fmt: skip


def _longest(sequences: Sequences) -> tuple[int, int]:
    """Upper bounds are enough. With 1 the kernel would take a way of its own for decoding, log-sum-exp included."""
    return max(sequences.longest_query, 2), max(sequences.longest_key, 2)


FLASH = Kernels(_flash_forward, _flash_backward)
