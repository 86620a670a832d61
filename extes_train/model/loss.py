"""The loss of a row: sum(weight * nll) over its targets, without the logits of anything else.

Logits exist for a chunk of targets at a time. Their gradients are taken in the forward pass, while the chunk's
logits are there, as liger-kernel does, whose kernel turns them into gradients where it can run (nll.py). Nothing of
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

from extes_train.errors import ConfigError
from extes_train.model.batch import RowBatch
from extes_train.model.config import LossConfig, chunk_size
from extes_train.model.forward import decoder, hidden_states, next_dtype, output_head
from extes_train.model.nll import NllKernel, choose_kernel, chunks_of, nll_kernel, torch_nll
from extes_train.model.replacing import forward_replaced
from extes_train.model.stock import stock_logits, stock_reason


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
        chunk = _chunk_size(model, predictors_QH, config, in_place=linear is not None)
        if linear is None:
            return _checkpointed_loss(head, predictors_QH, labels_Q, weight_Q, chunk)
        kernel = nll_kernel(config.kernel, predictors_QH.device)
        return LinearCrossEntropy.apply(predictors_QH, linear.weight, linear.bias, labels_Q, weight_Q, chunk, kernel)

    return _inside_head(output_head(model), head_loss, predictors_QH)


@torch.no_grad()
def target_nll(model: nn.Module, batch: RowBatch, config: LossConfig | None = None) -> Tensor:
    """Negative log-likelihood (Q,) of every target, fp32, no gradient: what perplexity is made of."""
    labels_Q = batch.labels_Q()
    if stock_reason(model):
        return _nll_C(stock_logits(model, batch), labels_Q)
    predictors_QH = hidden_states(model, batch).index_select(0, batch.predictor_Q)

    def all_nll(head: Callable[[Tensor], Tensor], _linear: nn.Linear | None) -> Tensor:
        size = _chunk_size(model, predictors_QH, config or LossConfig(), in_place=False)
        chunks = chunks_of(len(labels_Q), size)
        parts = [_nll_C(head(predictors_QH[chunk]), labels_Q[chunk]) for chunk in chunks]
        return torch.cat(parts) if parts else predictors_QH.new_zeros(0, dtype=torch.float32)

    return _inside_head(output_head(model), all_nll, predictors_QH)


def describe_loss(model: nn.Module, config: LossConfig, device: torch.device) -> str:
    """How the loss of this model's rows is computed, and why, for the log and provenance.json.

    Raises ConfigError where `loss.kernel` cannot run on `device` or for this model.
    """
    plain = _is_plain_linear(output_head(model))
    reason = stock_reason(model) or (None if plain else "an adapter on the head")
    if reason is not None and config.kernel == "liger":
        raise ConfigError(f"loss.kernel=liger: {reason}; use auto or torch here")
    name, why = choose_kernel(config.kernel, device) if reason is None else ("torch", reason)
    if stock_reason(model):
        return f"{name}, all targets of a row at once ({why})"
    states = torch.empty(0, dtype=next_dtype(model), device=device)
    return f"{name}, {_chunk_size(model, states, config, in_place=plain):,} targets at a time ({why})"


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


def _chunk_size(model: nn.Module, states: Tensor, config: LossConfig, in_place: bool) -> int:
    """Targets of a chunk. Logits that are not `in_place` also have an fp32 copy and its log-softmax."""
    bytes_per_logit = states.element_size() + (0 if in_place else 8)
    return chunk_size(config.chunk_tokens, states.is_cuda, decoder(model).config.vocab_size, bytes_per_logit)


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
        kernel: NllKernel = torch_nll,
    ) -> tuple[Tensor, Tensor]:
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        loss = torch.zeros((), dtype=torch.float32, device=predictors_QH.device)
        nll_sum = torch.zeros_like(loss)
        grad_QH = torch.empty_like(predictors_QH) if needs_hidden else None
        grad_VH: Tensor | None = None
        grad_V = torch.zeros_like(bias_V, dtype=torch.float32) if needs_bias and bias_V is not None else None
        chunks = chunks_of(len(labels_Q), chunk_tokens)
        # one buffer for all chunks: fresh pages for each cost more than the arithmetic on them
        buffer_CV = weight_VH.new_empty((min(chunk_tokens, len(labels_Q)), weight_VH.shape[0]))
        for chunk in chunks:
            hidden_CH, labels_C, weight_C = predictors_QH[chunk], labels_Q[chunk], weight_Q[chunk]
            logits_CV = torch.mm(hidden_CH, weight_VH.T, out=buffer_CV[: len(labels_C)])
            if bias_V is not None:
                logits_CV += bias_V
            nll_C, grad_CV = kernel(logits_CV, labels_C)
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
        return (*gradients, None, None, None, None)


def _add_product(total_VH: Tensor | None, grad_CV: Tensor, weighted_CH: Tensor, alone: bool) -> Tensor:
    """`total_VH` plus a chunk's gradient of the head's weight; summed in fp32, where there is more than one chunk."""
    if total_VH is not None and total_VH.dtype == weighted_CH.dtype:
        return total_VH.addmm_(grad_CV.T, weighted_CH)
    product_VH = torch.mm(grad_CV.T, weighted_CH)
    if total_VH is not None:
        return total_VH.add_(product_VH)
    return product_VH if alone else product_VH.float()


def _checkpointed_loss(
    head: Callable[[Tensor], Tensor], predictors_QH: Tensor, labels_Q: Tensor, weight_Q: Tensor, chunk_tokens: int
) -> tuple[Tensor, Tensor]:
    """The same for a head that is no plain linear layer (an adapter on it): each chunk recomputed in the backward."""

    def chunk_loss(hidden_CH: Tensor, labels_C: Tensor, weight_C: Tensor) -> tuple[Tensor, Tensor]:
        nll_C = _nll_C(head(hidden_CH), labels_C)
        return torch.dot(nll_C, weight_C), torch.dot(nll_C.detach(), (weight_C > 0).to(nll_C.dtype))

    loss = predictors_QH.sum().float() * 0.0
    nll_sum = torch.zeros((), dtype=torch.float32, device=predictors_QH.device)
    for chunk in chunks_of(len(labels_Q), chunk_tokens):
        part, nll = checkpoint(chunk_loss, predictors_QH[chunk], labels_Q[chunk], weight_Q[chunk], use_reentrant=False)
        loss, nll_sum = loss + part, nll_sum + nll
    return loss, nll_sum
