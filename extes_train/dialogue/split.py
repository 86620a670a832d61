"""Dealing things to sides by the hash of their key: no order, no neighbour and no later addition changes a side."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from extes_train.dialogue.schema import Dialogue
from extes_train.errors import ConfigError


def uniform(key: str, seed: int) -> float:
    """A number in [0, 1) that depends on `key` and `seed` alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:7], "big") / (1 << 56)


def side_of(key: str, shares: Mapping[str, float], seed: int) -> str:
    """The side that `key` falls to, with probability proportional to its share."""
    total = sum(shares.values())
    if not shares or total <= 0 or min(shares.values()) < 0:
        raise ConfigError(f"shares of sides {dict(shares)}: must not be negative and must not all be 0")
    point, reached = uniform(key, seed) * total, 0.0
    for side, share in shares.items():
        reached += share
        if point < reached:
            return side
    return [side for side, share in shares.items() if share > 0][-1]


def split_dialogues(
    dialogues: Sequence[Dialogue], valid_fraction: float, seed: int
) -> tuple[list[Dialogue], list[Dialogue]]:
    """Train and valid, by hash of the id, order kept. Either may be empty."""
    train: list[Dialogue] = []
    valid: list[Dialogue] = []
    for dialogue in dialogues:
        (valid if uniform(dialogue.id, seed) < valid_fraction else train).append(dialogue)
    return train, valid
