"""One packed row as tensors, and the spans that structured attention works on.

Shapes: T tokens of the row, Q targets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class BranchGroup:
    """Adjacent branches that hang off the same turn: row[start:end], all seeing the trunk before `attach`."""

    start: int
    end: int
    attach: int
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class TreeSpan:
    """One tree of the row: its trunk is row[start:trunk_end]; its groups follow in row order."""

    start: int
    trunk_end: int
    groups: tuple[BranchGroup, ...]


@dataclass
class RowBatch:
    """A micro-batch: one row. Target i is token `target_Q[i]`, predicted from the hidden state at `predictor_Q[i]`."""

    ids_1T: Tensor  # int64
    position_1T: Tensor  # int64
    tree_T: Tensor  # int64
    branch_T: Tensor  # int64, 0 on the trunk
    attach_T: Tensor  # int64, row index
    target_Q: Tensor  # int64
    predictor_Q: Tensor  # int64
    weight_Q: Tensor  # float32
    spans: tuple[TreeSpan, ...]
    cache: dict[str, Any] = field(default_factory=dict, repr=False)  # masks made once and used by every layer

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.ids_1T.device

    @property
    def has_branches(self) -> bool:
        """True when a tree of the row has an alternative."""
        return any(tree.groups for tree in self.spans)

    def labels_Q(self) -> Tensor:
        """The target tokens' ids."""
        return self.ids_1T[0].index_select(0, self.target_Q)

    def allowed_TT(self) -> Tensor:
        """Dense visibility, True where query (first axis) may see key; DESIGN.md, Training on trees."""
        if "allowed" not in self.cache:
            index_T = torch.arange(self.tree_T.numel(), device=self.device)
            q, k = index_T[:, None], index_T[None, :]
            same_branch = self.branch_T[:, None] == self.branch_T[None, :]
            prefix = (self.branch_T[None, :] == 0) & (k < self.attach_T[:, None])
            same_tree = self.tree_T[:, None] == self.tree_T[None, :]
            self.cache["allowed"] = same_tree & (k <= q) & (same_branch | prefix)
        return self.cache["allowed"]

    def to(self, device: torch.device | str) -> RowBatch:
        """The same row on `device`."""
        if torch.device(device) == self.device:
            return self
        names = ("ids_1T", "position_1T", "tree_T", "branch_T", "attach_T", "target_Q", "predictor_Q", "weight_Q")
        tensors: dict[str, Any] = {name: send(getattr(self, name), torch.device(device)) for name in names}
        return RowBatch(spans=self.spans, **tensors)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on `device`; from memory that is not pinned it would wait for all work there."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def row_batch_from_arrays(row: Any, device: torch.device | str = "cpu") -> RowBatch:
    """A `RowBatch` from an object with the numpy arrays of a packed row (`extes_train.tokens.rows.Row`).

    A row of no tokens (an empty micro-batch that keeps ranks in step) becomes one token without targets.
    Raises ValueError for a branch before its trunk, or a target that has no predictor.
    """
    if len(row.ids_T) == 0:
        return _empty_row().to(device)
    tree_T, branch_T, attach_T = (np.asarray(a, dtype=np.int64) for a in (row.tree_T, row.branch_T, row.attach_T))
    predictor_Q = np.asarray(row.predictor_Q, dtype=np.int64)
    if len(predictor_Q) and predictor_Q.min() < 0:
        raise ValueError("a target without a parent token cannot be predicted")
    batch = RowBatch(
        ids_1T=_long(row.ids_T)[None],
        position_1T=_long(row.position_T)[None],
        tree_T=_long(tree_T),
        branch_T=_long(branch_T),
        attach_T=_long(attach_T),
        target_Q=_long(row.target_Q),
        predictor_Q=_long(predictor_Q),
        weight_Q=torch.from_numpy(np.array(row.weight_Q, dtype=np.float32)),
        spans=tuple(_spans(tree_T, branch_T, attach_T)),
    )
    return batch.to(device)


def _long(values: Any) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.int64))


def _empty_row() -> RowBatch:
    zero = torch.zeros(1, dtype=torch.int64)
    none = torch.zeros(0, dtype=torch.int64)
    return RowBatch(
        zero[None].clone(), zero[None].clone(), zero, zero.clone(), zero.clone(), none, none.clone(), torch.zeros(0),
        (TreeSpan(0, 1, ()),),
    )  # fmt: skip


def _spans(tree_T: np.ndarray, branch_T: np.ndarray, attach_T: np.ndarray) -> list[TreeSpan]:
    """Runs of equal (tree, branch), gathered to trees and to groups of equal attachment."""
    change = (np.diff(tree_T) != 0) | (np.diff(branch_T) != 0)
    starts = np.concatenate([[0], np.flatnonzero(change) + 1])
    ends = np.concatenate([starts[1:], [len(tree_T)]])
    spans: list[TreeSpan] = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        if branch_T[start] == 0:
            spans.append(TreeSpan(start, end, ()))
            continue
        if not spans or tree_T[spans[-1].start] != tree_T[start]:
            raise ValueError(f"row token {start}: a branch that does not follow its trunk")
        spans[-1] = _with_branch(spans[-1], start, end, int(attach_T[start]))
    return spans


def _with_branch(tree: TreeSpan, start: int, end: int, attach: int) -> TreeSpan:
    if not tree.start <= attach <= tree.trunk_end:
        raise ValueError(f"row token {start}: attached at {attach}, outside the trunk {tree.start}..{tree.trunk_end}")
    groups = list(tree.groups)
    if groups and groups[-1].attach == attach and groups[-1].end == start:
        last = groups.pop()
        groups.append(BranchGroup(last.start, end, attach, (*last.lengths, end - start)))
    else:
        groups.append(BranchGroup(start, end, attach, (end - start,)))
    return TreeSpan(tree.start, tree.trunk_end, tuple(groups))
