"""Checks of configuration values, shared by the config dataclasses. No torch, no OmegaConf."""

from __future__ import annotations

from typing import Any

from extes_train.errors import ConfigError

MISSING = "???"  # what OmegaConf writes where a value is still to come


def given(value: Any) -> bool:
    """False for None and for OmegaConf's "???", which `__post_init__` meets while a schema is being built."""
    return value is not None and value != MISSING


def at_least(key: str, value: Any, minimum: float) -> None:
    """Refuse a `value` below `minimum`."""
    if given(value) and not value >= minimum:  # so that nan is refused too
        raise ConfigError(f"{key}={value!r}: must be at least {minimum}")


def above(key: str, value: Any, bound: float) -> None:
    """Refuse a `value` that is not greater than `bound`."""
    if given(value) and not value > bound:
        raise ConfigError(f"{key}={value!r}: must be greater than {bound}")


def within(key: str, value: Any, low: float, high: float) -> None:
    """Refuse a `value` outside [low, high]."""
    if given(value) and not low <= value <= high:
        raise ConfigError(f"{key}={value!r}: must lie between {low} and {high}")


def one_of(key: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Refuse a `value` that is not one of `allowed`, with a "did you mean"."""
    from extes_train.errors import did_you_mean

    if given(value) and value not in allowed:
        raise ConfigError(f"{key}={value!r}: must be one of {', '.join(allowed)}{did_you_mean(str(value), allowed)}")
