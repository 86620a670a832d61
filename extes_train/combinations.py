"""Values that are fine alone and wrong together. Checked once, on the composed configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from extes_train.errors import ConfigError

if TYPE_CHECKING:
    from extes_train.config import TrainConfig


def check_combinations(config: TrainConfig) -> None:
    """Raise ConfigError, naming both keys and the ways out."""
    zero, model, tokens = config.zero, config.model, config.tokens
    if config.seed < 0:
        raise ConfigError(f"seed={config.seed}: must be at least 0")
    if zero.offload_parameters == "cpu" and zero.stage != 3:
        raise ConfigError(
            f"zero.offload_parameters=cpu: needs zero.stage=3, not {zero.stage}; use zero=zero3_offload, or "
            "zero.offload_parameters=none"
        )
    if zero.offload_optimizer == "cpu" and zero.stage == 0:
        raise ConfigError(
            "zero.offload_optimizer=cpu: needs zero.stage=1, 2 or 3, not 0; use zero=zero2_offload, or "
            "zero.offload_optimizer=none"
        )
    if model.context_length and model.context_length > tokens.tokens_per_row:
        raise ConfigError(
            f"model.context_length={model.context_length}: does not fit tokens.tokens_per_row="
            f"{tokens.tokens_per_row}; add tokens.tokens_per_row={model.context_length} or more"
        )
    if tokens.min_left_context and model.context_length and tokens.min_left_context >= model.context_length:
        raise ConfigError(
            f"tokens.min_left_context={tokens.min_left_context}: leaves nothing of model.context_length="
            f"{model.context_length} for responses; must be smaller, a quarter is usual"
        )
