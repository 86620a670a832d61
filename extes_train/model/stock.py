"""Rows through a model's own forward pass, for architectures that take no packed rows (architectures.py).

The samples of a row become one batch, padded on the right: a causal model's real tokens never see what follows them, so
no mask is needed. Logits are made for targets only, all of them at once, and whatever the model does to them after its
head is done. One call of the model and of its head in each row, as ZeRO-3 needs it.

Shapes: T tokens of the row, Q targets, B samples, L the longest, H hidden, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from extes_train.errors import LayoutError
from extes_train.model.batch import RowBatch
from extes_train.model.forward import causal_lm, output_head
from extes_train.model.replacing import forward_replaced

MARK = "extes_stock"  # attribute of a model whose rows go this way


def set_stock(model: nn.Module, reason: str | None) -> None:
    """Send the rows of `model` this way for `reason`, or with None no longer."""
    setattr(causal_lm(model), MARK, reason)


def stock_reason(model: nn.Module) -> str | None:
    """Why rows go through the model's own forward pass, None where they do not."""
    return getattr(causal_lm(model), MARK, None)


def stock_logits(model: nn.Module, batch: RowBatch) -> Tensor:
    """Logits (Q, V) of the row's targets. Raises LayoutError for a row with branches."""
    if batch.has_branches:
        kind = causal_lm(model).config.model_type
        raise LayoutError(
            f"model type {kind!r} goes through its own attention, which takes no trees: tokens.layout=flat"
        )
    length = max(span.trunk_end - span.start for span in batch.spans)
    place_T = torch.cat(
        [torch.arange(span.trunk_end - span.start) + b * length for b, span in enumerate(batch.spans)]
    ).to(batch.device)
    ids_BL = batch.ids_1T.new_zeros(len(batch.spans) * length)
    ids_BL = ids_BL.index_copy(0, place_T, batch.ids_1T[0]).view(-1, length)
    predictor_Q = place_T.index_select(0, batch.predictor_Q)
    head = output_head(model)
    original = head.forward

    def targets_only(hidden_BLH: Tensor) -> Tensor:
        return original(hidden_BLH.flatten(0, 1).index_select(0, predictor_Q)[None])

    with forward_replaced(head, targets_only):
        return causal_lm(model)(input_ids=ids_BL, use_cache=False).logits[0]
