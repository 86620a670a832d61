"""Tree attention through variable-length flash attention. GPU with flash-attn.

Every trunk and every branch is a sequence of its own: a branch's queries run causally, aligned at the end, on
[trunk prefix, branch]. Keys and values are gathered once per layer; the index is made once per row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from extes_train.model.batch import RowBatch


@dataclass(frozen=True)
class Sequences:
    """K keys after gathering; S sequences. Query offsets, key offsets (int32, S + 1) and the gathered keys' indices."""

    key_index_K: Tensor
    query_offsets: Tensor
    key_offsets: Tensor
    longest_query: int
    longest_key: int


def varlen_tree_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    row: RowBatch,
    scaling: float | None = None,
    dropout: float = 0.0,
    varlen_function: Callable[..., Tensor] | None = None,
) -> Tensor:
    """query, key, value (1, h, T, D) -> (1, T, h, D), through flash-attn's function or one with its signature (causal,
    aligned at the end)."""
    if varlen_function is None:
        from flash_attn import flash_attn_varlen_func

        varlen_function = flash_attn_varlen_func
    assert varlen_function is not None
    plan = sequences(row)
    q_ThD, k_ThD, v_ThD = (x[0].transpose(0, 1) for x in (query, key, value))
    if row.has_branches:
        k_ThD, v_ThD = k_ThD.index_select(0, plan.key_index_K), v_ThD.index_select(0, plan.key_index_K)
    out_ThD = varlen_function(
        q_ThD, k_ThD, v_ThD,
        cu_seqlens_q=plan.query_offsets, cu_seqlens_k=plan.key_offsets,
        max_seqlen_q=plan.longest_query, max_seqlen_k=plan.longest_key,
        dropout_p=dropout, softmax_scale=scaling, causal=True,
    )  # fmt: skip
    return out_ThD[None]


def sequences(row: RowBatch) -> Sequences:
    """The row's trunks and branches as sequences, in row order."""
    if "sequences" not in row.cache:
        pieces: list[tuple[range, int, int]] = []  # prefix, own start, own end
        for tree in row.spans:
            pieces.append((range(0), tree.start, tree.trunk_end))
            for group in tree.groups:
                start = group.start
                for length in group.lengths:
                    pieces.append((range(tree.start, group.attach), start, start + length))
                    start += length
        queries = torch.tensor([0] + [end - start for _, start, end in pieces])
        keys = torch.tensor([0] + [len(prefix) + end - start for prefix, start, end in pieces])
        index = torch.cat([torch.tensor([*prefix, *range(start, end)]) for prefix, start, end in pieces])
        row.cache["sequences"] = Sequences(
            index.to(row.device),
            queries.cumsum(0).to(row.device, torch.int32),
            keys.cumsum(0).to(row.device, torch.int32),
            int(queries.max()),
            int(keys.max()),
        )
    return row.cache["sequences"]
