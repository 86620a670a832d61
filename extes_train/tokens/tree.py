"""Token trees: one trunk, one branch for each alternative; flat samples are trees that are only a trunk.

Shapes: T tokens of the tree, Q targets. Indices count from the tree's first token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from extes_train.tokens.windows import Response, Window

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ResponseWeights:
    """How much a response counts (DESIGN: The loss); the fields of `LossConfig` that concern the tokens."""

    weighting: str = "token"  # token | response
    per_turn: str = "sum"  # sum | mean
    alternatives_weight: float = 1.0

    def of_window(self, responses: Sequence[Response]) -> list[float]:
        """The weight of one target of each of `responses`, all of one window."""
        raw = [self.alternatives_weight if r.alternative >= 0 else 1.0 for r in responses]
        totals: dict[int, float] = {}
        for response, weight in zip(responses, raw):
            totals[response.turn] = totals.get(response.turn, 0.0) + weight
        weights = []
        for response, weight in zip(responses, raw):
            if self.per_turn == "mean":
                weight = weight / totals[response.turn] if totals[response.turn] else 0.0
            weights.append(weight / len(response.ids) if self.weighting == "response" else weight)
        return weights


@dataclass(slots=True)
class TokenTree:
    """Arrays of one tree.

    ids_T, position_T, parent_T (-1 at the root), branch_T (0 on the trunk, 1.. for the branches in order),
    attach_T (index of the original's first content token; 0 on the trunk); target_Q: token index of every target,
    weight_Q: its weight, response_Q: its response's number in this tree, end_Q: whether it is part of an end-of-turn.
    The trunk is [0, trunk_length); `branches` holds (attach, length) of each branch, which follow in this order.
    `repeated`: how many of the first trunk tokens another tree of the same window computes too, with its targets there.
    """

    ids_T: Ints
    branch_T: Ints
    attach_T: Ints
    parent_T: Ints
    position_T: Ints
    target_Q: Ints
    weight_Q: Floats
    response_Q: Ints
    end_Q: Bools
    trunk_length: int
    branches: tuple[tuple[int, int], ...]
    num_responses: int
    item: int = 0  # index of the window in its dataset
    dialogue: int = 0  # index of the dialogue
    repeated: int = 0

    def __len__(self) -> int:
        return len(self.ids_T)


def build_trees(
    window: Window, weights: ResponseWeights, layout: str = "tree", flat: str = "multi_turn", item: int = 0
) -> list[TokenTree]:
    """The trees of `window` in a layout; the same targets, contexts and weights in every one of them.

    tree: one tree. flat multi_turn: the trunk with the originals' targets, and one sample for each alternative.
    flat per_response: one sample for each response.
    """
    per_target = list(zip(window.responses, weights.of_window(window.responses)))
    originals = [pair for pair in per_target if pair[0].alternative < 0]
    others = [pair for pair in per_target if pair[0].alternative >= 0]
    if layout == "tree":
        return [_tree(window, len(window.trunk), originals, others, item)]
    if flat == "multi_turn":
        samples = [_tree(window, len(window.trunk), originals, [], item)] if originals else []
        return samples + [_sample(window, pair, item) for pair in others]
    return [_sample(window, pair, item) for pair in per_target]


def _sample(window: Window, pair: tuple[Response, float], item: int) -> TokenTree:
    response, weight = pair
    ids_T = np.concatenate([window.trunk[: response.attach], response.ids])
    alone = Response(response.turn, -1, response.attach, response.ids, response.num_end, response.num_bytes)
    return _arrays(ids_T, len(ids_T), [(alone, weight)], [], window.dialogue, item)


def _tree(
    window: Window,
    trunk_length: int,
    originals: Sequence[tuple[Response, float]],
    others: Sequence[tuple[Response, float]],
    item: int,
) -> TokenTree:
    ids_T = np.concatenate([window.trunk[:trunk_length], *(response.ids for response, _ in others)])
    return _arrays(ids_T, trunk_length, originals, others, window.dialogue, item)


def _arrays(
    ids_T: Ints,
    trunk_length: int,
    originals: Sequence[tuple[Response, float]],
    others: Sequence[tuple[Response, float]],
    dialogue: int,
    item: int,
) -> TokenTree:
    num_tokens = len(ids_T)
    branch_T, attach_T = np.zeros(num_tokens, dtype=np.int32), np.zeros(num_tokens, dtype=np.int32)
    position_T, parent_T = np.arange(num_tokens, dtype=np.int32), np.arange(-1, num_tokens - 1, dtype=np.int32)
    starts = [response.attach for response, _ in originals]
    cursor = trunk_length
    for number, (response, _) in enumerate(others, start=1):
        stop = cursor + len(response.ids)
        branch_T[cursor:stop] = number
        attach_T[cursor:stop] = response.attach
        position_T[cursor:stop] -= cursor - response.attach
        parent_T[cursor] = response.attach - 1
        starts.append(cursor)
        cursor = stop
    targets, weights, numbers, ends = _targets([*originals, *others], starts)
    return TokenTree(
        ids_T=ids_T.astype(np.int32), branch_T=branch_T, attach_T=attach_T, parent_T=parent_T, position_T=position_T,
        target_Q=targets, weight_Q=weights, response_Q=numbers, end_Q=ends, trunk_length=trunk_length,
        branches=tuple((r.attach, len(r.ids)) for r, _ in others), num_responses=len(starts), item=item,
        dialogue=dialogue,
    )  # fmt: skip


def _targets(pairs: Sequence[tuple[Response, float]], starts: Sequence[int]) -> tuple[Ints, Floats, Ints, Bools]:
    """Targets from spans: every token of each response, which begins at its `start`."""
    lengths = [len(response.ids) for response, _ in pairs]
    if not lengths:
        return np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(0, np.int32), np.zeros(0, np.bool_)
    target_Q = np.concatenate([np.arange(start, start + n) for start, n in zip(starts, lengths)])
    end_Q = np.concatenate([np.arange(n) >= n - response.num_end for (response, _), n in zip(pairs, lengths)])
    weight_Q = np.repeat([weight for _, weight in pairs], lengths)
    response_Q = np.repeat(np.arange(len(pairs)), lengths)
    return target_Q.astype(np.int32), weight_Q.astype(np.float32), response_Q.astype(np.int32), end_Q


def flat_pairs(window: Window) -> int:
    """Visible (query, key) pairs of the multi_turn flat samples of `window`."""
    lengths = [r.attach + len(r.ids) for r in window.responses if r.alternative >= 0]
    if any(r.alternative < 0 for r in window.responses):
        lengths.append(len(window.trunk))
    return sum(n * (n + 1) // 2 for n in lengths)


def split_tree(tree: TokenTree, tokens_per_row: int) -> list[TokenTree]:
    """Trees of at most `tokens_per_row` tokens with together the targets of `tree`, each exactly once.

    The first keeps the whole trunk and the branches that attach last, which are the dearest to repeat; each next one
    repeats the trunk up to its last attachment, without targets there (`repeated` tokens).
    """
    if len(tree) <= tokens_per_row:
        return [tree]
    starts = np.cumsum([tree.trunk_length, *(length for _, length in tree.branches)])
    order = sorted(range(len(tree.branches)), key=lambda b: (-tree.branches[b][0], b))
    parts: list[tuple[int, list[int]]] = [(tree.trunk_length, [])]
    room = tokens_per_row - tree.trunk_length
    assert room >= 0, f"a trunk of {tree.trunk_length} tokens in rows of {tokens_per_row}"
    for branch in order:
        attach, length = tree.branches[branch]
        if length > room:
            parts.append((attach, []))
            room = tokens_per_row - attach
            assert length <= room, f"a path of {attach + length} tokens in rows of {tokens_per_row}"
        parts[-1][1].append(branch)
        room -= length
    return [_part(tree, trunk, sorted(chosen), starts, first=n == 0) for n, (trunk, chosen) in enumerate(parts)]


def _part(tree: TokenTree, trunk_length: int, chosen: list[int], starts: Ints, first: bool) -> TokenTree:
    kept = np.concatenate(
        [np.arange(trunk_length), *(np.arange(starts[b], starts[b] + tree.branches[b][1]) for b in chosen)]
    ).astype(np.int32)
    place = np.full(len(tree), -1, dtype=np.int32)
    place[kept] = np.arange(len(kept), dtype=np.int32)
    numbers = np.zeros(len(tree.branches) + 1, dtype=np.int32)
    numbers[[b + 1 for b in chosen]] = np.arange(1, len(chosen) + 1)
    mine_Q = (place[tree.target_Q] >= 0) & (first | (tree.target_Q >= tree.trunk_length))
    _, response_Q = np.unique(tree.response_Q[mine_Q], return_inverse=True)
    parent_T = tree.parent_T[kept]
    return TokenTree(
        ids_T=tree.ids_T[kept],
        branch_T=numbers[tree.branch_T[kept]],
        attach_T=tree.attach_T[kept],
        parent_T=np.where(parent_T < 0, -1, place[parent_T]).astype(np.int32),
        position_T=tree.position_T[kept],
        target_Q=place[tree.target_Q[mine_Q]],
        weight_Q=tree.weight_Q[mine_Q],
        response_Q=response_Q.astype(np.int32),
        end_Q=tree.end_Q[mine_Q],
        trunk_length=trunk_length,
        branches=tuple(tree.branches[b] for b in chosen),
        num_responses=int(response_Q.max()) + 1 if len(response_Q) else 0,
        item=tree.item,
        dialogue=tree.dialogue,
        repeated=0 if first else trunk_length,
    )
