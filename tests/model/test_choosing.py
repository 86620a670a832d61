"""model.attention=auto picks by device, length and shape, and its picks compute the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from model.rows_by_hand import HandRow, HandTurn, add_tree, random_dialogue, tiny_llama, tree_row

from extes_train.model.attention import use_attention
from extes_train.model.batch import RowBatch, row_batch_from_arrays
from extes_train.model.choosing import describe_attention, gpu_order, kernel_calls, pick, picked, visible_pairs
from extes_train.model.config import LossConfig
from extes_train.model.loss import row_loss
from extes_train.model.trial import Heads, model_heads

FP32, BF16 = (Heads(8, 8, 64, dtype, torch.device("cpu")) for dtype in (torch.float32, torch.bfloat16))
GPU_FP32, GPU_BF16 = (Heads(32, 8, 128, heads.dtype, torch.device("cuda", 0)) for heads in (FP32, BF16))


def row_of(turns: int, response: int, alternatives: int, branch: int) -> RowBatch:
    """One tree with regular turns."""
    turn = HandTurn([1] * 30, [2] * response, [[3] * branch] * alternatives, [1.0] * (alternatives + 1))
    return row_batch_from_arrays(add_tree(HandRow(), 0, [turn] * turns))


def test_pairs_and_calls_are_those_of_the_row() -> None:
    rng = np.random.default_rng(0)
    row = row_batch_from_arrays(tree_row([random_dialogue(rng, 97, 3, 3) for _ in range(3)]))
    assert visible_pairs(row) == int(row.allowed_TT().sum())
    branches = sum(len(group.lengths) for tree in row.spans for group in tree.groups)
    assert kernel_calls(row) == 3 + branches + sum(len(tree.groups) for tree in row.spans)


def test_a_cpu_takes_what_was_measured_to_be_faster() -> None:
    """Cases of benchmarks/attention_choice.py where one way took at most four fifths of the other's time."""
    long_tree, plain = row_of(10, 30, 4, 60), row_of(34, 30, 0, 0)
    assert pick(long_tree, FP32)[0] == pick(long_tree, BF16)[0] == "structured"
    assert pick(plain, FP32)[0] == pick(plain, BF16)[0] == "structured"
    assert pick(row_of(1, 30, 1, 12), FP32)[0] == "sdpa"
    assert pick(row_of(1, 30, 1, 12), BF16)[0] == "structured"
    assert pick(row_of(3, 30, 8, 12), FP32)[0] == pick(row_of(3, 30, 8, 12), BF16)[0] == "structured"


def names(row: RowBatch, heads: Heads, flash_attn: bool) -> list[str]:
    return [name for name, _ in gpu_order(row, heads, flash_attn)]


def test_the_order_on_a_gpu() -> None:
    short, long, plain = row_of(2, 30, 4, 12), row_of(10, 30, 4, 60), row_of(34, 30, 0, 0)
    assert names(short, GPU_BF16, False) == ["structured"]
    assert names(long, GPU_BF16, True) == ["structured", "varlen", "flex"]
    assert [names(row, GPU_FP32, True) for row in (short, long, plain)] == [[], ["flex"], ["structured"]]
    odd = replace(GPU_BF16, size=84)  # no multiple of 8
    assert names(long, odd, True) == ["varlen", "flex"]


def test_a_backend_that_fails_its_trial_is_passed_over() -> None:
    short, long = row_of(2, 30, 4, 12), row_of(10, 30, 4, 60)
    broken: set[str] = set()

    def refused(name: str, _heads: Heads) -> str | None:
        return "planted" if name in broken else None

    found = []
    for name in ("structured", "flex"):
        found.append([pick(row, GPU_BF16, refused)[0] for row in (short, long)])
        broken.add(name)
    assert found == [["structured", "structured"], ["sdpa", "flex"]]
    assert pick(long, GPU_BF16, refused) == ("sdpa", "no other backend passed its trial")
    assert pick(long, replace(GPU_BF16, device=torch.device("cuda", 99)))[0] == "sdpa"  # real trials, no such GPU


@pytest.mark.parametrize("shape", [(1, 4, 8, 2), (10, 30, 4, 60)])
def test_whatever_is_picked_computes_the_same(shape: tuple[int, int, int, int]) -> None:
    row, model, found = row_of(*shape), tiny_llama(max_position_embeddings=1024), []
    for name in ("auto", "sdpa"):
        use_attention(model, name)
        loss, _ = row_loss(model, row, LossConfig())
        found.append((loss.detach(), torch.autograd.grad(loss, list(model.parameters()))))
    assert picked(row, model_heads(model, "cpu")) == ("structured" if shape[0] == 10 else "sdpa")
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=0)
    for got, want in zip(found[0][1], found[1][1], strict=True):
        assert float((got - want).norm()) <= 1e-5 * float(want.norm())


def test_what_was_picked_is_said() -> None:
    model, rows = tiny_llama(), [row_of(10, 30, 4, 60), row_of(11, 30, 4, 60), row_of(1, 4, 8, 2)]
    use_attention(model, "auto")
    many, short = describe_attention(model, rows)
    assert many.startswith("structured for 2 rows of 3,000 to 3,300 tokens (masked pairs")
    assert short.startswith("sdpa for 1 row of 50 tokens (short")
    use_attention(model, "sdpa")
    assert describe_attention(model, rows) == ["sdpa for all rows (model.attention)"]
    use_attention(model, "stock")
    assert describe_attention(model, rows) == ["stock, samples as padded batches (model.attention=stock)"]
