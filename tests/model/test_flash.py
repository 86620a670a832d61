"""Two calls a layer compute what the dense mask says, gradients included: PyTorch's CUDA kernels stand behind the same
interface as those used here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from model.cpu_kernels import KERNELS
from model.rows_by_hand import HandRow, add_tree, random_dialogue, tiny_llama, tree_row
from torch import Tensor

from extes_train.model.attention import PREFIX, _for_transformers, dense_tree_attention, use_attention
from extes_train.model.batch import RowBatch, row_batch_from_arrays
from extes_train.model.config import LoraConfig, LossConfig
from extes_train.model.flash import FLASH, Kernels, flash_fits, flash_tree_attention, row_sequences
from extes_train.model.forward import causal_lm
from extes_train.model.loss import row_loss
from extes_train.model.trial import trial_row
from extes_train.model.tuning import apply_tuning, trainable_parameters

SHAPES = {"random": range(4), "plain": range(1), "at the first token": range(1), "trial": range(1), "empty": range(1)}
CASES = [(name, seed) for name, seeds in SHAPES.items() for seed in seeds]


def a_row(name: str, seed: int) -> RowBatch:
    rng = np.random.default_rng(seed)
    if name == "random":  # several trees, turns with and without alternatives
        return row_batch_from_arrays(tree_row([random_dialogue(rng, 97, 4, 3) for _ in range(3)]))
    if name == "plain":
        return row_batch_from_arrays(tree_row([random_dialogue(rng, 97, 4, 0) for _ in range(3)]))
    if name == "trial":
        return trial_row()
    if name == "empty":  # a micro-batch that only keeps ranks in step
        return row_batch_from_arrays(HandRow())
    row, parents = HandRow(), {0: -1, 1: -1, 2: -1}
    for branch in (0, 0, 0, 1, 1, 2):
        parents[branch] = row.add(1, 0, branch, 0, parents[branch], None)
    return row_batch_from_arrays(add_tree(row, 1, random_dialogue(rng, 97, 2, 3)))


def with_gradients(
    function: Any, row: RowBatch, key_heads: int, dtype: torch.dtype, given_as: torch.dtype = torch.float32
) -> list[Tensor]:
    """Output and gradients of queries, keys and values, computed in `dtype` from values that `given_as` can hold."""
    torch.manual_seed(0)
    length = row.tree_T.numel()
    drawn = [torch.randn(1, length, heads, 8).transpose(1, 2) for heads in (4, key_heads, key_heads)]
    leaves = [x.to(given_as).to(dtype).requires_grad_() for x in drawn]
    probe = torch.randn(1, length, 4, 8).to(given_as).to(dtype)
    out = function(*leaves, row)
    return [out.detach(), *torch.autograd.grad(out, leaves, probe)]


def two_calls(query: Tensor, key: Tensor, value: Tensor, row: RowBatch) -> Tensor:
    return flash_tree_attention(query, key, value, row, None, KERNELS)


@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize(("name", "seed"), CASES)
def test_two_calls_equal_the_dense_mask(name: str, seed: int, key_heads: int) -> None:
    row = a_row(name, seed)
    got = with_gradients(two_calls, row, key_heads, torch.float32)
    want = with_gradients(dense_tree_attention, row, key_heads, torch.float32)
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_bf16_is_as_near_to_fp32_as_the_dense_mask(seed: int) -> None:
    row, low = a_row("random", seed), torch.bfloat16
    ours, stock = (with_gradients(function, row, 2, low, low) for function in (two_calls, dense_tree_attention))
    exact = with_gradients(dense_tree_attention, row, 2, torch.float32, low)
    for got, theirs, want in zip(ours, stock, exact, strict=True):
        assert got.dtype == low
        errors = [float((x.float() - want).norm() / want.norm()) for x in (got, theirs)]
        assert errors[0] <= 1.5 * errors[1] < 0.03


@pytest.mark.parametrize(("name", "calls"), [("plain", 1), ("random", 2)])
def test_a_layer_is_two_calls_each_way(name: str, calls: int) -> None:
    """Rows without branches need one: plain packed flash attention."""
    made: list[str] = []

    def counted(kind: str) -> Any:
        def call(*given: Any) -> Any:
            made.append(kind)
            return getattr(KERNELS, kind)(*given)

        return call

    counting = Kernels(counted("forward"), counted("backward"))
    with_gradients(lambda *x: flash_tree_attention(*x, None, counting), a_row(name, 0), 2, torch.float32)
    assert made == ["forward"] * calls + ["backward"] * calls


def test_keys_are_gathered_once_a_turn() -> None:
    row = trial_row()
    own, prefix = row_sequences(row)
    groups = [group for tree in row.spans for group in tree.groups]
    assert prefix is not None and len(own.query_offsets) - 1 == 3 + sum(len(group.lengths) for group in groups)
    with_prefix = [group for tree in row.spans for group in tree.groups if group.attach > tree.start]
    assert len(prefix.query_offsets) - 1 == len(with_prefix) == len(groups) - 1
    assert prefix.key_index.numel() == 20 + 70 + 31  # not times the branches of the turn
    assert row_sequences(row)[0] is own


@pytest.mark.parametrize("key_heads", [4, 2])
def test_the_call_of_pytorchs_kernels(key_heads: int) -> None:
    """Their arguments and shapes, through the operators' own shape functions: no GPU is needed to bind a call."""
    row = trial_row()
    own, prefix = row_sequences(row)
    assert prefix is not None
    for sequences, causal in ((own, True), (prefix, False)):
        counts = sequences.query_index.numel(), sequences.key_index.numel()
        sizes = ((counts[0], 4, 64), (counts[1], key_heads, 64), (counts[1], key_heads, 64))
        query, key, value = (torch.empty(size, dtype=torch.bfloat16, device="meta") for size in sizes)
        out, sums = FLASH.forward(query, key, value, sequences, causal, 0.125)
        assert out.shape == query.shape and sums.shape == (4, counts[0]) and sums.dtype == torch.float32
        found = FLASH.backward(out, query, key, value, out, sums, sequences, causal, 0.125)
        assert [x.shape for x in found] == [x.shape for x in (query, key, value)]


def test_what_the_kernels_take() -> None:
    bf16 = torch.bfloat16
    assert flash_fits("cuda", bf16, 128) and flash_fits("cuda", torch.float16, 256)
    refused = [("cpu", bf16, 128), ("cuda", torch.float32, 128), ("cuda", bf16, 264), ("cuda", bf16, 84)]
    assert not any(flash_fits(*case) for case in refused)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_model_through_two_calls(checkpointing: bool) -> None:
    """Grouped-query attention, LoRA, and layers that run a second time in the backward pass."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(PREFIX + "two_calls", _for_transformers(lambda *given: two_calls(*given[:4])))
    AttentionMaskInterface.register(PREFIX + "two_calls", sdpa_mask)
    row, found = a_row("random", 0), []
    for name in (PREFIX + "two_calls", "sdpa"):
        torch.manual_seed(0)
        model = apply_tuning(tiny_llama(), LoraConfig(r=2), checkpointing).train()
        use_attention(model, "sdpa")
        causal_lm(model).set_attn_implementation(name)
        loss, _ = row_loss(model, row, LossConfig())
        found.append([loss.detach(), *torch.autograd.grad(loss, trainable_parameters(model))])
    for got, want in zip(*found, strict=True):
        assert float((got - want).norm()) <= 1e-5 * float(want.norm())
