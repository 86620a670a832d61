"""The DeepSpeed engine behind five verbs: loss, backward, step, save, load.

Scaling. The caller divides a micro-batch's loss by W, the target weight of the whole step over all ranks, so the
gradient of the step is the plain sum over rows and ranks. DeepSpeed averages over ranks; the engine multiplies the
loss by the number of ranks before the backward pass, a power of two in practice, so that nothing is lost to rounding.
Accumulation is by hand: losses go in undivided, and the last row of a step is marked as the boundary.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from extes_train.engine.config import running_stage
from extes_train.engine.deepspeed_config import deepspeed_config
from extes_train.engine.process_group import ProcessGroup, limit_waits
from extes_train.engine.weights import gathered_weights
from extes_train.model.batch import RowBatch
from extes_train.model.config import LossConfig
from extes_train.model.loss import row_loss, target_nll

if TYPE_CHECKING:
    from extes_train.config import TrainConfig


class RowModule(nn.Module):
    """What DeepSpeed wraps: one call is one row, from tokens to loss, so that its hooks see a whole pass."""

    def __init__(self, model: nn.Module, config: LossConfig) -> None:
        super().__init__()
        self.model = model
        self.loss_config = config

    def forward(self, batch: RowBatch, per_target: bool = False) -> Any:
        """(sum of weight * nll, sum of nll), or with `per_target` the nll (Q,) without gradient."""
        if per_target:
            return target_nll(self.model, batch, self.loss_config)
        return row_loss(self.model, batch, self.loss_config)


class Engine:
    """A model that DeepSpeed trains. Every method is called by all ranks, equally often."""

    def __init__(self, wrapped: Any, model: nn.Module, group: ProcessGroup, stage: int) -> None:
        self.model = model  # for its configuration and names; rows go through `loss` and `target_nll`
        self.stage = stage
        self._wrapped = wrapped
        self._group = group
        self._pending = 0

    @property
    def device(self) -> torch.device:
        """Where rows must be."""
        return self._group.device

    def loss(self, batch: RowBatch) -> tuple[Tensor, Tensor]:
        """`model.loss.row_loss` of the row, through DeepSpeed."""
        self._pending += 1
        return self._wrapped(batch)

    def target_nll(self, batch: RowBatch) -> Tensor:
        """`model.loss.target_nll` of the row, through DeepSpeed."""
        with torch.no_grad():
            return self._wrapped(batch, per_target=True)

    def backward(self, loss: Tensor, is_boundary: bool) -> None:
        """Add the gradient of `loss`, one row's loss already divided by W. `is_boundary`: the step's last row."""
        assert self._pending == 1, f"backward needs the loss of one Engine.loss call, got {self._pending} calls"
        self._pending = 0
        self._wrapped.set_gradient_accumulation_boundary(is_boundary)
        self._wrapped.backward(loss * self._group.world_size, scale_wrt_gas=False)

    def step(self, lr: float) -> Tensor | float:
        """Clip, update with learning rate `lr`, clear the gradients; returns the global norm before clipping."""
        for parameters in self._wrapped.optimizer.param_groups:
            parameters["lr"] = lr
        norm_before = self._plain_norm() if self.stage == 0 else None
        self._wrapped.set_gradient_accumulation_boundary(True)
        self._wrapped.step()
        return norm_before if norm_before is not None else self._wrapped.get_global_grad_norm()

    def save(self, directory: Path | str, tag: str) -> None:
        """Write weights that move and optimizer under `directory`/`tag`, one file a rank and more."""
        from extes_train.engine.checkpoint import save_engine

        save_engine(self._wrapped, self._group, self.stage, Path(directory), tag)

    def load(self, directory: Path | str, tag: str) -> None:
        """Read what `save` wrote, by this or another number of ranks. Raises RunDirError where that cannot be."""
        from extes_train.engine.checkpoint import load_engine

        load_engine(self._wrapped, self._group, self.stage, Path(directory), tag)

    def full_state_dict(self) -> dict[str, Tensor] | None:
        """What a final model needs, name -> whole weight on the CPU, gathered over ranks; None on ranks but the first.

        The weights that move, and for a model without adapters also any that do not.
        """
        return gathered_weights(self.model, self._group, self.stage, trainable_only=hasattr(self.model, "peft_config"))

    def close(self) -> None:
        """Take DeepSpeed's hooks off the model, so that the process may build another engine."""
        if hasattr(self._wrapped, "destroy"):
            self._wrapped.destroy()

    def _plain_norm(self) -> Tensor:
        """Stage 0 keeps plain gradients, reduced at the boundary."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)


def build_engine(model: nn.Module, config: TrainConfig, group: ProcessGroup) -> Engine:
    """DeepSpeed around `model` with the ZeRO stage, optimizer and clipping of `config`, torch's AdamW inside.

    The model must be the same on every rank. Raises ConfigError for a combination DeepSpeed would get wrong.
    """
    import deepspeed

    settings = deepspeed_config(config.zero, config.optim, config.model.dtype, group.world_size)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trainable,
        lr=config.optim.lr,
        betas=(config.optim.betas[0], config.optim.betas[1]),
        eps=config.optim.eps,
        weight_decay=config.optim.weight_decay,
        fused=True,
    )
    model.train()
    wrapped, *_ = deepspeed.initialize(
        model=RowModule(model, config.loss),
        optimizer=optimizer,
        model_parameters=trainable,
        config=settings,
        dist_init_required=False,
    )
    limit_waits(config.distributed)
    return Engine(wrapped, model, group, running_stage(config.zero, config.model.dtype))
