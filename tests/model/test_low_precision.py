"""bf16: tree attention is as near to fp32 as PyTorch's own, and the loss is computed in fp32 from bf16 logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model.rows_by_hand import random_dialogue, tree_row
from torch import Tensor
from torch.nn import functional as F

from extes_train.model import nll
from extes_train.model.batch import row_batch_from_arrays
from extes_train.model.loss import LinearCrossEntropy
from extes_train.model.structured import tree_attention


def error(got: tuple[Tensor, ...], want: tuple[Tensor, ...]) -> list[float]:
    return [float((g.float() - w).norm() / w.norm()) for g, w in zip(got, want, strict=True)]


@pytest.mark.parametrize("seed", range(3))
def test_gradients_of_branches_are_as_near_to_fp32_as_with_a_dense_mask(seed: int) -> None:
    rng = np.random.default_rng(seed)
    row = row_batch_from_arrays(tree_row([random_dialogue(rng, 97, 3, 3) for _ in range(3)]))
    torch.manual_seed(seed)
    exact = [torch.randn(1, 4, row.tree_T.numel(), 16).bfloat16().float().requires_grad_() for _ in range(3)]
    mask, probe = row.allowed_TT()[None, None], torch.randn_like(exact[0])
    want = torch.autograd.grad((F.scaled_dot_product_attention(*exact, attn_mask=mask) * probe).sum(), exact)
    low = [x.detach().bfloat16().requires_grad_() for x in exact]
    ours = torch.autograd.grad((tree_attention(*low, row, None) * probe).sum(), low)
    stock = torch.autograd.grad((F.scaled_dot_product_attention(*low, attn_mask=mask) * probe).sum(), low)
    assert all(gradient.dtype == torch.bfloat16 for gradient in ours)
    for our_error, stock_error in zip(error(ours, want), error(stock, want), strict=True):
        assert our_error <= 1.1 * stock_error < 0.02


def head(dtype: torch.dtype, chunk: int) -> tuple[float, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(50, 16), torch.randn(211, 16), torch.randn(211)
    inputs = [x.bfloat16().to(dtype).requires_grad_() for x in (hidden, weight, bias)]
    labels, weights = torch.randint(211, (50,)), torch.rand(50)
    loss = LinearCrossEntropy.apply(*inputs, labels, weights, chunk)[0]
    return loss.item(), torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("chunk", [50, 7])
def test_the_loss_in_blocks(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    want_loss, want = head(torch.float32, 50)
    monkeypatch.setattr(nll, "CACHED_LOGITS", 3 * 211)  # three rows at a time
    got_loss, got = head(torch.float32, chunk)
    assert got_loss == pytest.approx(want_loss, rel=1e-6) and max(error(got, want)) <= 1e-6
    low_loss, low = head(torch.bfloat16, chunk)
    assert low_loss == pytest.approx(want_loss, rel=1e-2) and max(error(low, want)) <= 2e-2
    assert all(gradient.dtype == torch.bfloat16 for gradient in low)
