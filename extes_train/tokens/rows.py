"""Packing trees into rows and dealing rows to ranks. Deterministic: the order of trees in, the same rows out."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from extes_train.tokens.row import Row, build_row, empty_row
from extes_train.tokens.tree import TokenTree, split_tree

# attention work of one (query, key) pair in units of one token's work in the linear layers, times the hidden size:
# 4 h multiply-adds a pair and layer against about 12 h^2 a token and layer (q, k, v, o and a gated MLP of 8/3 h)
PAIR_COST_TIMES_HIDDEN = 1 / 3


@dataclass(frozen=True, slots=True)
class RowStatistics:
    """How full rows are. Rows are not padded, so nothing but their tokens is computed.

    `fill`: tokens / (rows x the longest row), what ranks that wait for each other lose; `capacity_fill`: tokens /
    (rows x tokens_per_row); `repeated_tokens`: trunk tokens that splitting a long tree computes again.
    """

    rows: int
    tokens: int
    targets: int
    repeated_tokens: int
    fill: float
    capacity_fill: float


def pack_rows(trees: Sequence[TokenTree], tokens_per_row: int, multiple_of: int = 1) -> list[Row]:
    """Rows of at most `tokens_per_row` tokens that hold `trees`, those longer than a row split (`split_tree`).

    As few rows as best fit finds, rounded up to a multiple of `multiple_of` (the world size), and among those packings
    one whose longest row is short, so that rows are about equally long. Longer rows come first.
    """
    parts = [part for tree in trees for part in split_tree(tree, tokens_per_row)]
    if not parts:
        return []
    lengths = [len(part) for part in parts]
    bins = best_fit(lengths, tokens_per_row)
    most = -(-len(bins) // multiple_of) * multiple_of
    low, high = max(max(lengths), -(-sum(lengths) // most)), tokens_per_row
    while low < high:
        middle = (low + high) // 2
        tighter = best_fit(lengths, middle)
        if len(tighter) <= most:
            bins, high = tighter, middle
        else:
            low = middle + 1
    rows = [build_row([parts[index] for index in content]) for content in bins]
    return sorted(rows, key=lambda row: -len(row.ids_T))


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of `lengths` in bins of at most `capacity`: each, longest first, goes to the fullest bin with room."""
    rooms: list[tuple[int, int]] = []  # (room, bin), sorted
    bins: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = bisect.bisect_left(rooms, (lengths[index], 0))
        if place == len(rooms):
            bisect.insort(rooms, (capacity - lengths[index], len(bins)))
            bins.append([index])
            continue
        room, chosen = rooms.pop(place)
        bins[chosen].append(index)
        bisect.insort(rooms, (room - lengths[index], chosen))
    return bins


def row_statistics(trees: Sequence[TokenTree], rows: Sequence[Row], tokens_per_row: int) -> RowStatistics:
    """Fill of `rows`, which hold `trees`."""
    tokens = sum(row.num_tokens for row in rows)
    longest = max((row.num_tokens for row in rows), default=0)
    return RowStatistics(
        rows=len(rows),
        tokens=tokens,
        targets=sum(row.num_targets for row in rows),
        repeated_tokens=tokens - sum(len(tree) for tree in trees),
        fill=tokens / (len(rows) * longest) if tokens else 1.0,
        capacity_fill=tokens / (len(rows) * tokens_per_row) if tokens else 1.0,
    )


def row_cost(row: Row, hidden_size: int = 4096) -> float:
    """Work of a row in tokens: its tokens and its share of attention."""
    return row.num_tokens + row.attention_pairs * PAIR_COST_TIMES_HIDDEN / hidden_size


def deal_rows(rows: Sequence[Row], world_size: int, empty_token: int, hidden_size: int = 4096) -> list[list[Row]]:
    """Rows for each rank: equally many (at least one), costs balanced, dearest first; empty rows fill up.

    Rows of the same number on different ranks cost about the same, so ranks that meet after each row wait little.
    """
    costs = [row_cost(row, hidden_size) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: (-costs[i], i))
    per_rank = max(1, -(-len(rows) // world_size))
    ranks: list[list[Row]] = [[] for _ in range(world_size)]
    totals = [0.0] * world_size
    for start in range(0, len(order), world_size):
        group = order[start : start + world_size]
        least_loaded = sorted(range(world_size), key=lambda rank: (totals[rank], rank))
        for index, rank in zip(group, least_loaded):
            ranks[rank].append(rows[index])
            totals[rank] += costs[index]
    for dealt in ranks:
        dealt.extend(empty_row(empty_token) for _ in range(per_rank - len(dealt)))
    return ranks
