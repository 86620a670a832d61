"""Trees hold what the flat samples hold; rows keep trees apart."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tokens.samples import scored, seen, windows

from extes_train.tokens.row import allowed_pairs, build_row, empty_row
from extes_train.tokens.tree import ResponseWeights, build_trees, split_tree
from extes_train.tokens.windows import Response, Window

CHEAP = settings(max_examples=30, deadline=None)
ANY_WEIGHTS = st.builds(
    ResponseWeights,
    st.sampled_from(["token", "response"]),
    st.sampled_from(["sum", "mean"]),
    st.sampled_from([0.25, 1.0]),
)


@CHEAP
@given(windows(), ANY_WEIGHTS)
def test_every_layout_scores_the_same_tokens_after_the_same_prefix(window: Window, weights: ResponseWeights) -> None:
    tree, multi_turn, per_response = (
        scored(build_row(build_trees(window, weights, layout, flat)))
        for layout, flat in (("tree", ""), ("flat", "multi_turn"), ("flat", "per_response"))
    )
    assert tree == multi_turn == per_response
    assert sum(tree.values()) == sum(len(response.ids) for response in window.responses)


@CHEAP
@given(st.lists(windows(), min_size=1, max_size=3))
def test_the_mask_shows_each_token_exactly_its_path(several: list[Window]) -> None:
    row = build_row([tree for window in several for tree in build_trees(window, ResponseWeights())])
    mask_TT = allowed_pairs(row)
    for query in range(len(row.ids_T)):
        path = seen(row, query)
        assert list(np.flatnonzero(mask_TT[query])) == path
        assert row.position_T[query] == len(path) - 1
    assert mask_TT.sum() == row.attention_pairs


@CHEAP
@given(windows(), st.integers(0, 12))
def test_a_split_tree_has_every_target_once_and_fits(window: Window, extra: int) -> None:
    (tree,) = build_trees(window, ResponseWeights())
    limit = max([len(window.trunk)] + [r.attach + len(r.ids) for r in window.responses]) + extra
    parts = split_tree(tree, limit)
    assert all(len(part) <= limit for part in parts)
    together: Counter = Counter()
    for part in parts:
        row = build_row([part])
        together += scored(row)
        assert list(np.flatnonzero(allowed_pairs(row)[-1])) == seen(row, len(row.ids_T) - 1)
    assert together == scored(build_row([tree]))
    assert sum(len(part) for part in parts) - sum(part.repeated for part in parts) == len(tree)


def test_weights_of_a_turn_by_hand() -> None:
    ids = np.arange(4, dtype=np.int32)
    turn = [Response(1, -1, 3, ids, 1, 9), Response(1, 0, 3, ids[:2], 1, 5)]
    by_response = ResponseWeights("response", "sum", 0.5).of_window(turn)
    by_mean = ResponseWeights("token", "mean", 0.5).of_window(turn)
    assert by_response == [1 / 4, 0.5 / 2]
    assert by_mean == [1 / 1.5, 0.5 / 1.5]


def test_equal_branches_at_different_turns_stay_apart() -> None:
    """Two alternatives with the same local index, one at the first turn and one at the last token's turn."""
    ids = np.arange(10, dtype=np.int32)
    responses = [
        Response(0, -1, 1, ids[1:3], 1, 1), Response(0, 0, 1, ids[5:8], 1, 1),
        Response(1, -1, 9, ids[9:], 1, 1), Response(1, 0, 9, ids[5:8], 1, 1),
    ]  # fmt: skip
    row = build_row(build_trees(Window(0, 0, 2, ids, responses), ResponseWeights()) * 2)
    assert list(row.branch_T[:16]) == [0] * 10 + [1] * 3 + [2] * 3
    assert list(row.position_T[10:16]) == [1, 2, 3, 9, 10, 11]
    assert list(row.parent_T[[0, 10, 13, 16, 26, 29]]) == [-1, 0, 8, -1, 16, 24]
    assert not allowed_pairs(row)[16:, :16].any()
    assert not allowed_pairs(row)[13:16, 10:13].any()


def test_an_empty_row_has_a_target_without_weight() -> None:
    row = empty_row(7)
    assert (row.num_targets, row.num_tokens, float(row.weight_Q.sum())) == (0, 0, 0.0)
    assert allowed_pairs(row).any(axis=1).all()
    assert row.target_Q[0] == 1 and row.predictor_Q[0] == 0
