"""The loss of a row: sum(weight * nll) over its targets, without the logits of anything else.

Logits exist for `chunk_tokens` targets at a time. Their gradients are taken in the forward pass, while the chunk's
logits are there, as liger-kernel does (whose kernel takes no weight per target, so it is not used here). Nothing of
size targets x vocabulary outlives a chunk, nothing is computed twice, and the head's weight is needed in the forward
pass only.

Shapes: Q targets, C of a chunk, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from extes_train.model.batch import RowBatch
from extes_train.model.config import LossConfig
from extes_train.model.forward import hidden_states, output_head
from extes_train.model.replacing import forward_replaced
from extes_train.model.stock import stock_logits, stock_reason

CACHED_LOGITS = 1 << 19  # fp32 logits that a CPU's cache holds, 2 MiB


def row_loss(model: nn.Module, batch: RowBatch, config: LossConfig) -> tuple[Tensor, Tensor]:
    """(sum of weight * nll, with gradient; sum of nll where weight > 0, without), fp32 scalars on the model's device.

    Reads nothing back to the host. A row without targets gives zeros that still reach every parameter.
    """
    labels_Q, weight_Q = batch.labels_Q(), batch.weight_Q
    if stock_reason(model):
        nll_Q = _nll_C(stock_logits(model, batch), labels_Q)
        return torch.dot(nll_Q, weight_Q), torch.dot(nll_Q.detach(), (weight_Q > 0).to(nll_Q.dtype))
    predictors_QH = hidden_states(model, batch).index_select(0, batch.predictor_Q)

    def head_loss(head: Callable[[Tensor], Tensor], linear: nn.Linear | None) -> tuple[Tensor, Tensor]:
        if linear is None:
            return _checkpointed_loss(head, predictors_QH, labels_Q, weight_Q, config.chunk_tokens)
        return LinearCrossEntropy.apply(
            predictors_QH, linear.weight, linear.bias, labels_Q, weight_Q, config.chunk_tokens
        )

    return _inside_head(output_head(model), head_loss, predictors_QH)


@torch.no_grad()
def target_nll(model: nn.Module, batch: RowBatch, config: LossConfig | None = None) -> Tensor:
    """Negative log-likelihood (Q,) of every target, fp32, no gradient: what perplexity is made of."""
    chunk_tokens = (config or LossConfig()).chunk_tokens
    labels_Q = batch.labels_Q()
    if stock_reason(model):
        return _nll_C(stock_logits(model, batch), labels_Q)
    predictors_QH = hidden_states(model, batch).index_select(0, batch.predictor_Q)

    def all_nll(head: Callable[[Tensor], Tensor], _linear: nn.Linear | None) -> Tensor:
        chunks = _chunks(len(labels_Q), chunk_tokens)
        parts = [_nll_C(head(predictors_QH[chunk]), labels_Q[chunk]) for chunk in chunks]
        return torch.cat(parts) if parts else predictors_QH.new_zeros(0, dtype=torch.float32)

    return _inside_head(output_head(model), all_nll, predictors_QH)


def _inside_head(head: nn.Module, function: Callable[..., Any], predictors_QH: Tensor) -> Any:
    """Run `function` as the head's forward, once, through the head's own call.

    ZeRO-3 gathers a module's weight in hooks around its call and frees it after; a rank with more targets than
    another must not make more of these collective calls, so the loop over chunks runs inside one call.
    """
    original = head.forward
    linear = head if type(head) is nn.Linear or _is_plain_linear(head) else None

    def replaced(_predictors: Tensor) -> Any:
        return function(original, linear)

    with forward_replaced(head, replaced):
        return head(predictors_QH)


def _is_plain_linear(head: nn.Module) -> bool:
    """An nn.Linear whose parameters DeepSpeed has partitioned keeps its class or a subclass of it; adapters do not."""
    return isinstance(head, nn.Linear) and not hasattr(head, "base_layer")


def _chunks(total: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def _nll_C(logits_CV: Tensor, labels_C: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits_CV.float(), labels_C, reduction="none")


class LinearCrossEntropy(torch.autograd.Function):
    """(sum of weight * nll, sum of nll) of a linear head over chunks; the second has no gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        predictors_QH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        labels_Q: Tensor,
        weight_Q: Tensor,
        chunk_tokens: int,
    ) -> tuple[Tensor, Tensor]:
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        loss = torch.zeros((), dtype=torch.float32, device=predictors_QH.device)
        nll_sum = torch.zeros_like(loss)
        grad_QH = torch.empty_like(predictors_QH) if needs_hidden else None
        grad_VH: Tensor | None = None
        grad_V = torch.zeros_like(bias_V, dtype=torch.float32) if needs_bias and bias_V is not None else None
        chunks = _chunks(len(labels_Q), chunk_tokens)
        # one buffer for all chunks: fresh pages for each cost more than the arithmetic on them
        buffer_CV = weight_VH.new_empty((min(chunk_tokens, len(labels_Q)), weight_VH.shape[0]))
        for chunk in chunks:
            hidden_CH, labels_C, weight_C = predictors_QH[chunk], labels_Q[chunk], weight_Q[chunk]
            logits_CV = torch.mm(hidden_CH, weight_VH.T, out=buffer_CV[: len(labels_C)])
            if bias_V is not None:
                logits_CV += bias_V
            nll_C, grad_CV = _nll_and_gradient(logits_CV, labels_C)
            loss += torch.dot(nll_C, weight_C)
            nll_sum += torch.dot(nll_C, (weight_C > 0).to(nll_C.dtype))
            # the targets' weights go on the narrow side of each product: (C, H), not (C, V)
            weight_C1 = weight_C[:, None].to(hidden_CH.dtype)
            if grad_V is not None:
                grad_V += torch.mv(grad_CV.T, weight_C1[:, 0])
            if grad_QH is not None:
                torch.mm(grad_CV, weight_VH, out=grad_QH[chunk]).mul_(weight_C1)
            if needs_weight:
                grad_VH = _add_product(grad_VH, grad_CV, hidden_CH * weight_C1, alone=len(chunks) == 1)
        if needs_weight and grad_VH is None:
            grad_VH = torch.zeros_like(weight_VH)
        ctx.gradients = (
            grad_QH,
            None if grad_VH is None else grad_VH.to(weight_VH.dtype),
            None if grad_V is None or bias_V is None else grad_V.to(bias_V.dtype),
        )
        ctx.mark_non_differentiable(nll_sum)
        return loss, nll_sum

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _grad_nll: Tensor) -> tuple[Tensor | None, ...]:
        gradients = [None if g is None else g.mul_(grad_loss.to(g.dtype)) for g in ctx.gradients]
        del ctx.gradients
        return (*gradients, None, None, None)


def _add_product(total_VH: Tensor | None, grad_CV: Tensor, weighted_CH: Tensor, alone: bool) -> Tensor:
    """`total_VH` plus a chunk's gradient of the head's weight; summed in fp32, where there is more than one chunk."""
    if total_VH is not None and total_VH.dtype == weighted_CH.dtype:
        return total_VH.addmm_(grad_CV.T, weighted_CH)
    product_VH = torch.mm(grad_CV.T, weighted_CH)
    if total_VH is not None:
        return total_VH.add_(product_VH)
    return product_VH if alone else product_VH.float()


def _nll_and_gradient(logits_CV: Tensor, labels_C: Tensor) -> tuple[Tensor, Tensor]:
    """nll (C,), fp32, and its gradient in the logits (C, V), the latter in the memory and dtype of the logits.

    Computed in fp32, on a CPU a few rows at a time: as many as its cache holds.
    """
    rows = max(1, CACHED_LOGITS // logits_CV.shape[1]) if logits_CV.device.type == "cpu" else len(labels_C)
    if logits_CV.dtype == torch.float32:
        parts = [_softmax_in_place(logits_CV[block], labels_C[block]) for block in _chunks(len(labels_C), rows)]
        return torch.cat(parts), logits_CV
    parts, scratch_BV = [], logits_CV.new_empty((min(rows, len(labels_C)), logits_CV.shape[1]), dtype=torch.float32)
    for block in _chunks(len(labels_C), rows):
        float_BV = scratch_BV[: block.stop - block.start].copy_(logits_CV[block])
        parts.append(_softmax_in_place(float_BV, labels_C[block]))
        logits_CV[block] = float_BV
    return torch.cat(parts), logits_CV


def _softmax_in_place(logits_CV: Tensor, labels_C: Tensor) -> Tensor:
    """nll (C,); the fp32 logits become their own gradient: softmax minus one at the label.

    nll comes from the largest probability p and its logit m: log sum exp = m - log p, well conditioned because p is at
    least 1 / V; the label's own probability may underflow.
    """
    labels_C1 = labels_C[:, None]
    label_logit_C = logits_CV.gather(1, labels_C1)[:, 0]
    largest_C, where_C = logits_CV.max(dim=1)
    torch.softmax(logits_CV, dim=1, out=logits_CV)
    nll_C = largest_C - logits_CV.gather(1, where_C[:, None])[:, 0].log() - label_logit_C
    logits_CV.scatter_add_(1, labels_C1, -torch.ones_like(labels_C1, dtype=logits_CV.dtype))
    return nll_C


def _checkpointed_loss(
    head: Callable[[Tensor], Tensor], predictors_QH: Tensor, labels_Q: Tensor, weight_Q: Tensor, chunk_tokens: int
) -> tuple[Tensor, Tensor]:
    """The same for a head that is no plain linear layer (an adapter on it): each chunk recomputed in the backward."""

    def chunk_loss(hidden_CH: Tensor, labels_C: Tensor, weight_C: Tensor) -> tuple[Tensor, Tensor]:
        nll_C = _nll_C(head(hidden_CH), labels_C)
        return torch.dot(nll_C, weight_C), torch.dot(nll_C.detach(), (weight_C > 0).to(nll_C.dtype))

    loss = predictors_QH.sum().float() * 0.0
    nll_sum = torch.zeros((), dtype=torch.float32, device=predictors_QH.device)
    for chunk in _chunks(len(labels_Q), chunk_tokens):
        part, nll = checkpoint(chunk_loss, predictors_QH[chunk], labels_Q[chunk], weight_Q[chunk], use_reentrant=False)
        loss, nll_sum = loss + part, nll_sum + nll
    return loss, nll_sum
