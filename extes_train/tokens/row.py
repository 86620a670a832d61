"""Row: several token trees one after another, the unit that a forward pass computes.

Shapes: T tokens of the row, Q targets. All indices are row indices.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from extes_train.tokens.tree import TokenTree

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class BranchSpan:
    """One alternative: tokens [start, stop), seeing the trunk's tokens before `attach`."""

    attach: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class TreeSpan:
    """One tree: trunk [start, trunk_stop), then its branches one after another up to `stop`."""

    start: int
    trunk_stop: int
    stop: int
    branches: tuple[BranchSpan, ...]


@dataclass(slots=True)
class Row:
    """A packed row. There is no padding in it: every token belongs to a tree.

    ids_T, position_T: what the model reads; position counts along the path from the root, which has 0.
    tree_T, branch_T, attach_T: what `allowed_pairs` needs; attach of a trunk token is 0 and means nothing.
    parent_T: the previous token on the path, -1 at a root.
    target_Q, predictor_Q: token index of each target, and its parent, whose hidden state predicts it.
    weight_Q: float32 weight in the loss; response_Q: number of its response in the row; end_Q: part of an end-of-turn.
    sources: (item, window's dialogue) of each tree. An empty row (`num_targets` 0) has one target of weight 0, so that
    every parameter still gets its zero gradient.
    """

    ids_T: Ints
    position_T: Ints
    tree_T: Ints
    branch_T: Ints
    attach_T: Ints
    parent_T: Ints
    target_Q: Ints
    predictor_Q: Ints
    weight_Q: Floats
    response_Q: Ints
    end_Q: Bools
    num_targets: int
    spans: tuple[TreeSpan, ...] = ()
    sources: tuple[tuple[int, int], ...] = field(default=())

    @property
    def num_tokens(self) -> int:
        """Tokens computed for real: 0 for an empty row."""
        return len(self.ids_T) if self.num_targets else 0

    @property
    def attention_pairs(self) -> int:
        """Number of (query, key) pairs that `allowed_pairs` allows."""
        return sum(pairs_of(span) for span in self.spans)


def pairs_of(span: TreeSpan) -> int:
    """Allowed (query, key) pairs of one tree."""
    trunk = span.trunk_stop - span.start
    pairs = trunk * (trunk + 1) // 2
    for branch in span.branches:
        length = branch.stop - branch.start
        pairs += length * (branch.attach - span.start) + length * (length + 1) // 2
    return pairs


def build_row(trees: list[TokenTree]) -> Row:
    """The row of `trees` in this order."""
    starts = np.cumsum([0, *(len(tree.ids_T) for tree in trees)])
    responses = np.cumsum([0, *(tree.num_responses for tree in trees)])

    def joined(name: str, shift: bool = False) -> npt.NDArray[np.int32]:
        parts = [getattr(tree, name) + (np.int32(start) if shift else 0) for tree, start in zip(trees, starts)]
        return np.concatenate(parts).astype(np.int32)

    branch_T = joined("branch_T")
    parent_T = joined("parent_T", shift=True)
    parent_T[starts[:-1]] = -1
    target_Q = joined("target_Q", shift=True)
    return Row(
        ids_T=joined("ids_T"),
        position_T=joined("position_T"),
        tree_T=np.repeat(np.arange(len(trees), dtype=np.int32), np.diff(starts)),
        branch_T=branch_T,
        attach_T=np.where(branch_T > 0, joined("attach_T", shift=True), 0).astype(np.int32),
        parent_T=parent_T,
        target_Q=target_Q,
        predictor_Q=parent_T[target_Q],
        weight_Q=np.concatenate([tree.weight_Q for tree in trees]).astype(np.float32),
        response_Q=np.concatenate([t.response_Q + n for t, n in zip(trees, responses)]).astype(np.int32),
        end_Q=np.concatenate([tree.end_Q for tree in trees]),
        num_targets=len(target_Q),
        spans=tuple(span_of(tree, int(start)) for tree, start in zip(trees, starts)),
        sources=tuple((tree.item, tree.dialogue) for tree in trees),
    )


def span_of(tree: TokenTree, start: int) -> TreeSpan:
    """Where `tree` lies in a row that holds it from `start` on."""
    trunk_stop = start + tree.trunk_length
    branches, cursor = [], trunk_stop
    for attach, length in tree.branches:
        branches.append(BranchSpan(start + attach, cursor, cursor + length))
        cursor += length
    return TreeSpan(start, trunk_stop, cursor, tuple(branches))


def empty_row(token_id: int) -> Row:
    """Two tokens and one target of weight 0: what a rank computes when it has nothing to compute."""
    zero = np.zeros(2, dtype=np.int32)
    return Row(
        ids_T=np.full(2, token_id, dtype=np.int32), position_T=np.array([0, 1], dtype=np.int32), tree_T=zero,
        branch_T=zero.copy(), attach_T=zero.copy(), parent_T=np.array([-1, 0], dtype=np.int32),
        target_Q=np.array([1], dtype=np.int32), predictor_Q=np.array([0], dtype=np.int32),
        weight_Q=np.zeros(1, dtype=np.float32), response_Q=np.zeros(1, dtype=np.int32),
        end_Q=np.zeros(1, dtype=np.bool_), num_targets=0, spans=(TreeSpan(0, 2, 2, ()),),
    )  # fmt: skip


def allowed_pairs(row: Row) -> Bools:
    """The mask of DESIGN.md as a T x T matrix: `[q, k]` is True where query q may look at key k.

    allowed(q, k) = tree[q] == tree[k] and k <= q and (branch[k] == branch[q] or (branch[k] == 0 and k < attach[q]))
    """
    index = np.arange(len(row.ids_T))
    same_tree = row.tree_T[:, None] == row.tree_T[None, :]
    causal = index[None, :] <= index[:, None]
    same_branch = row.branch_T[:, None] == row.branch_T[None, :]
    trunk_before = (row.branch_T[None, :] == 0) & (index[None, :] < row.attach_T[:, None])
    return same_tree & causal & (same_branch | trunk_before)
