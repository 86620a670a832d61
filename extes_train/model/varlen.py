"""Tree attention through variable-length flash attention. GPU with flash-attn.

Every trunk and every branch is a sequence of its own: a branch's queries run causally, aligned at the end, on
[trunk prefix, branch]. Keys and values are gathered once per layer; the index is made once per row.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from extes_train.model.batch import RowBatch
from extes_train.model.flash import Sequences, build_sequences


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
        k_ThD, v_ThD = k_ThD.index_select(0, plan.key_index), v_ThD.index_select(0, plan.key_index)
    out_ThD = varlen_function(
        q_ThD, k_ThD, v_ThD,
        cu_seqlens_q=plan.query_offsets, cu_seqlens_k=plan.key_offsets,
        max_seqlen_q=plan.longest_query, max_seqlen_k=plan.longest_key,
        dropout_p=dropout, softmax_scale=scaling, causal=True,
    )  # fmt: skip
    return out_ThD[None]


def sequences(row: RowBatch) -> Sequences:
    """The row's trunks and branches, in row order, each on all that it sees."""
    if "sequences" not in row.cache:
        queries: list[range] = []
        keys: list[list[range]] = []
        for tree in row.spans:
            queries.append(range(tree.start, tree.trunk_end))
            keys.append([queries[-1]])
            for group in tree.groups:
                start = group.start
                for length in group.lengths:
                    queries.append(range(start, start + length))
                    keys.append([range(tree.start, group.attach), queries[-1]])
                    start += length
        row.cache["sequences"] = build_sequences(queries, keys, row.device)
    return row.cache["sequences"]
