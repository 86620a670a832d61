"""The trial of a GPU backend catches a backend that computes something else, and lets the right ones through."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from model.cpu_kernels import KERNELS
from model.rows_by_hand import tiny_llama
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from extes_train.errors import ConfigError
from extes_train.model.attention import dense_tree_attention, repeat_heads, use_attention
from extes_train.model.batch import RowBatch
from extes_train.model.flash import flash_tree_attention
from extes_train.model.structured import structured_tree_attention
from extes_train.model.trial import Heads, failure, model_heads, trial_row, try_backend

CPU = torch.device("cpu")


def heads(dtype: torch.dtype = torch.bfloat16, size: int = 64) -> Heads:
    return Heads(4, 2, size, dtype, CPU)


def two_calls(query: Tensor, key: Tensor, value: Tensor, row: RowBatch, scaling: float | None, _: float) -> Tensor:
    return flash_tree_attention(query, key, value, row, scaling, KERNELS)


def masked_by(change: Any) -> Any:
    """A dense backend whose mask has been changed."""

    def function(query: Tensor, key: Tensor, value: Tensor, row: RowBatch, *_: Any) -> Tensor:
        mask = change(row.allowed_TT().clone(), row)
        key, value = repeat_heads(key, 2), repeat_heads(value, 2)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask[None, None]).transpose(1, 2)

    return function


def neighbour_leaks(mask: Tensor, row: RowBatch) -> Tensor:
    """Branches of one turn see each other."""
    same_turn = (row.attach_T[:, None] == row.attach_T) & (row.branch_T[:, None] > 0) & (row.branch_T > 0)
    index = torch.arange(len(mask))
    return mask | (same_turn & (index[:, None] >= index) & (row.tree_T[:, None] == row.tree_T))


def one_key_more(mask: Tensor, row: RowBatch) -> Tensor:
    """k = attach is visible."""
    index = torch.arange(len(mask))
    last = torch.tensor([span.trunk_end - 1 for span in row.spans])[row.tree_T]
    mask[(row.branch_T > 0).nonzero()[:, 0], row.attach_T.minimum(last)[row.branch_T > 0]] = True
    return mask & (index[:, None] >= index)


def wrong_gradient(query: Tensor, key: Tensor, value: Tensor, row: RowBatch, *_: Any) -> Tensor:
    """Right output; the keys' gradient lost."""
    return dense_tree_attention(query, key.detach() + 0 * key, value, row)


def raises(*_: Any) -> Tensor:
    raise RuntimeError("no kernel image is available\nCompile with …")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("size", [16, 64, 128])
def test_right_backends_pass(dtype: torch.dtype, size: int) -> None:
    assert try_backend(dense_tree_attention, heads(dtype, size)) is None
    assert try_backend(two_calls, heads(dtype, size)) is None
    if dtype != torch.float16:
        assert try_backend(structured_tree_attention, heads(dtype, size)) is None


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (masked_by(neighbour_leaks), "its output differs from a dense mask's by"),
        (masked_by(one_key_more), "its output differs"),
        (wrong_gradient, "its gradient of the keys differs"),
        (raises, r"RuntimeError: no kernel image is available$"),
        (lambda *given: dense_tree_attention(*given[:4]) * torch.nan, "its output differs from a dense mask's by nan"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_broken_backends_fail(function: Any, reason: str, dtype: torch.dtype) -> None:
    found = try_backend(function, heads(dtype))
    assert found is not None and re.search(reason, found)


def test_the_mask_itself_passes() -> None:
    assert try_backend(masked_by(lambda mask, _: mask), heads()) is None
    assert trial_row().tree_T.unique().numel() == 3


def test_a_named_backend_that_fails_is_refused() -> None:
    """A GPU that is not there fails every trial."""
    for name in ("structured", "flex"):
        with pytest.raises(ConfigError, match=rf"model\.attention={name} cannot be used on this device: \w+.*auto"):
            use_attention(tiny_llama(), name, "cuda:99")


def test_a_failure_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    missing = Heads(3, 3, 24, torch.float32, torch.device("cuda", 99))
    with caplog.at_level(logging.WARNING):
        reasons = [failure("flex", missing) for _ in range(2)]
    assert reasons[0] == reasons[1] is not None
    assert [record.getMessage() for record in caplog.records] == [f"attention=flex cannot be used here: {reasons[0]}"]


def test_a_trial_inside_a_checkpointed_layer() -> None:
    """Its own backward pass must not meet the hooks of the caller's."""
    leaf = torch.ones(2, requires_grad=True)

    def layer(x: Tensor) -> Tensor:
        reasons.append(failure("structured", heads(size=32)))
        return x * x

    reasons: list[str | None] = []
    checkpoint(layer, leaf, use_reentrant=False).sum().backward()
    assert reasons == [None, None] and leaf.grad is not None and leaf.grad.tolist() == [2.0, 2.0]


def test_heads_of_a_model() -> None:
    model = tiny_llama(head_dim=24).to(torch.bfloat16)
    assert model_heads(model, "cpu") == Heads(4, 2, 24, torch.bfloat16, CPU)
