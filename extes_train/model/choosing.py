"""model.attention=auto: which backend a row goes through, by device, length and shape of its trees.

On a CPU from measurements: benchmarks/attention_choice.py fits the time of structured attention as so much a kernel
call and so much a visible pair, that of a dense mask as so much a call and a pair, visible or not (one thread, 8 heads
of 64, rows of 72 to 4,080 tokens; docs/trees.md has the figures). On a GPU nothing is measured by us: the order is that
of what a backend has to compute, and FlexAttention loses to a dense mask below one to two thousand tokens (public
reports). A GPU backend that fails its trial (trial.py) is passed over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from extes_train.model.attention import dense_tree_attention, flash_attn_installed, tree_backend
from extes_train.model.batch import RowBatch
from extes_train.model.flash import flash_fits
from extes_train.model.trial import Heads, failure, heads_of, model_heads

FLEX_FROM_TOKENS = 2048


@dataclass(frozen=True)
class CpuCost:
    """Microseconds of a layer, forward and backward, of structured attention and of a dense mask: a call, a pair."""

    call: float
    pair: float
    dense_call: float
    dense_pair: float


# the fits of benchmarks/attention_choice.py: 2 virtual cores of an AMD EPYC (AVX-512), torch 2.13
CPU_COSTS = {torch.float32: CpuCost(203, 0.150, 299, 0.103), torch.bfloat16: CpuCost(321, 0.136, 2350, 0.082)}


def pick(row: RowBatch, heads: Heads, refused: Callable[[str, Heads], str | None] = failure) -> tuple[str, str]:
    """(backend, why) for a row and such heads. `refused` says why a GPU backend cannot be used, None if it can."""
    tokens = row.tree_T.numel()
    if heads.device.type == "cuda":
        for name, why in gpu_order(row, heads, flash_attn_installed()):
            if refused(name, heads) is None:
                return name, why
        short = tokens < FLEX_FROM_TOKENS
        return "sdpa", f"fewer than {FLEX_FROM_TOKENS} tokens" if short else "no other backend passed its trial"
    cost = CPU_COSTS.get(heads.dtype, CPU_COSTS[torch.float32])
    structured = cost.call * kernel_calls(row) + cost.pair * visible_pairs(row)
    if structured <= cost.dense_call + cost.dense_pair * tokens**2:
        return "structured", "masked pairs would cost more than its calls"
    return "sdpa", "short: a dense mask costs less than many calls"


def gpu_order(row: RowBatch, heads: Heads, flash_attn: bool) -> Iterator[tuple[str, str]]:
    """(backend, why) worth a trial on a GPU, the best first; a dense mask is what remains."""
    if flash_fits(heads.device.type, heads.dtype, heads.size):
        yield "structured", "PyTorch's flash kernels: no masked pair, two calls a layer"
    if flash_attn and heads.dtype in (torch.bfloat16, torch.float16):
        yield "varlen", "flash-attn is installed"
    if not row.has_branches:
        yield "structured", "no branches: one causal call a trunk"
    if row.tree_T.numel() >= FLEX_FROM_TOKENS:
        yield "flex", f"{FLEX_FROM_TOKENS} tokens or more"


def picked(row: RowBatch, heads: Heads) -> str:
    """The backend of a row, decided once."""
    name = f"picked {heads}"
    if name not in row.cache:
        row.cache[name] = pick(row, heads)[0]
    return row.cache[name]


def auto_tree_attention(
    query: Tensor, key: Tensor, value: Tensor, row: RowBatch, scaling: float | None = None, dropout: float = 0.0
) -> Tensor:
    """query, key, value (1, h, T, D) -> (1, T, h, D), through the backend picked for the row."""
    name = picked(row, heads_of(query, key))
    function = dense_tree_attention if name == "sdpa" else tree_backend(name)
    return function(query, key, value, row, scaling, dropout)


def describe_picks(rows: Iterable[RowBatch], heads: Heads) -> list[str]:
    """What `auto` picks for `rows` and why, a line for each backend."""
    found: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        found.setdefault(pick(row, heads), []).append(row.tree_T.numel())
    ordered = Counter({choice: len(lengths) for choice, lengths in found.items()}).most_common()
    return [
        f"{name} for {count} row{'s' if count > 1 else ''} of {_span(found[name, why])} tokens ({why})"
        for (name, why), count in ordered
    ]


def _span(lengths: list[int]) -> str:
    low, high = min(lengths), max(lengths)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def kernel_calls(row: RowBatch) -> int:
    """Kernel calls of structured attention for the row, forward: one a trunk, one a branch, one a turn's prefix."""
    groups = [group for tree in row.spans for group in tree.groups]
    return len(row.spans) + sum(len(group.lengths) + 1 for group in groups)


def visible_pairs(row: RowBatch) -> int:
    """Number of (query, key) pairs that the row's mask allows."""
    pairs = 0
    for tree in row.spans:
        trunk = tree.trunk_end - tree.start
        pairs += trunk * (trunk + 1) // 2
        for group in tree.groups:
            prefix = group.attach - tree.start
            pairs += sum(length * prefix + length * (length + 1) // 2 for length in group.lengths)
    return pairs


def describe_attention(model: nn.Module, rows: Iterable[RowBatch]) -> list[str]:
    """Which attention `rows` go through, and why, for the log and provenance.json."""
    from extes_train.model.attention import PREFIX
    from extes_train.model.forward import causal_lm
    from extes_train.model.stock import stock_reason

    reason = stock_reason(model)
    if reason is not None:
        return [f"stock, samples as padded batches ({reason})"]
    name = causal_lm(model).config._attn_implementation.removeprefix(PREFIX)
    if name != "auto":
        return [f"{name} for all rows (model.attention)"]
    rows = list(rows)
    return describe_picks(rows, model_heads(model, rows[0].device)) if rows else []
