"""What the next candidate should be about: scenario by deficit, strategies the pool lacks, a hint for the situation."""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from extes_train.dialogue.taxonomy import Taxonomy
from extes_train.errors import ConfigError, DataError, did_you_mean

_HINTS = Path(__file__).resolve().parent / "prompts" / "situations.yaml"
_HINT_LISTS = ("people", "causes", "registers", "courses")


def scenario_shares(target: str, taxonomy: Taxonomy) -> dict[str, float]:
    """Scenario -> the share of dialogues it should get: `uniform`, `extes` (published counts) or a user's YAML file.

    Raises ConfigError or DataError for a target that the taxonomy cannot follow.
    """
    scenarios = list(taxonomy.scenarios)
    if not scenarios:
        raise ConfigError(f"taxonomy {taxonomy.name}: has no scenarios; generation needs some")
    if target == "uniform":
        weights: dict[str, float] = dict.fromkeys(scenarios, 1.0)
    elif target == "extes":
        counts = {s.id: s.published_count for s in taxonomy.scenarios.values()}
        if not all(counts.values()):
            raise ConfigError(f"generate.target=extes: taxonomy {taxonomy.name} has no published counts; use uniform")
        weights = {name: float(count or 0) for name, count in counts.items()}
    else:
        weights = _read_weights(target, scenarios)
    total = sum(weights.values())
    return {name: weights[name] / total for name in scenarios if weights.get(name, 0) > 0}


def _read_weights(path: str, scenarios: list[str]) -> dict[str, float]:
    import yaml

    if not Path(path).is_file():
        hint = did_you_mean(path, ("uniform", "extes"))
        raise ConfigError(f"generate.target={path!r}: must be uniform, extes or a YAML file{hint}")
    try:
        value = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict) or not value:
        raise DataError(f"{path}: expected a mapping from scenario to weight")
    for name, weight in value.items():
        if name not in scenarios:
            hint = did_you_mean(str(name), scenarios)
            raise DataError(f'{path}: "{name}" is no scenario{hint}; scenarios: {", ".join(scenarios)}')
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < 1e12:
            raise DataError(f"{path}: {name}: {weight!r}: a weight is a number, 0 or more")
    if sum(value.values()) <= 0:
        raise DataError(f"{path}: all weights are 0")
    return {str(name): float(weight) for name, weight in value.items()}


def most_wanted(
    shares: Mapping[str, float], counts: Mapping[str, int], total: float, rng: random.Random, excluded: frozenset[str]
) -> str:
    """The key that lacks most against `shares` of `total`, `excluded` ones left out; chance decides between equals."""
    chance, have = rng.random, counts.get
    keys = [key for key in shares if key not in excluded] if excluded else list(shares)
    lacking = [shares[key] * total - have(key, 0) + chance() * 1e-6 for key in keys]
    return keys[lacking.index(max(lacking))] if keys else ""


def lacking_strategies(counts: Counter[str], taxonomy: Taxonomy, number: int, rng: random.Random) -> list[str]:
    """`number` strategies that the pool has least of, with some chance, so that neighbouring candidates differ."""
    strategies = list(taxonomy.strategies)
    total = sum(counts.values())
    share = total / max(len(strategies), 1)
    noise = 0.25 * share + 1

    keys = {strategy: counts.get(strategy, 0) + rng.random() * noise for strategy in strategies}
    wanted = sorted(keys, key=keys.__getitem__)[:number]
    rng.shuffle(wanted)
    return wanted


def situation_hint(rng: random.Random) -> str:
    """A person, a cause, a register and a course, drawn independently."""
    lists = _hint_lists()
    return "; ".join(rng.choice(lists[name]) for name in _HINT_LISTS)


@functools.cache
def _hint_lists() -> dict[str, Sequence[str]]:
    import yaml

    value: dict[str, Any] = yaml.safe_load(_HINTS.read_text(encoding="utf-8"))
    return {name: tuple(value[name]) for name in _HINT_LISTS}


def parse_shard(key: str, shard: str) -> tuple[int, int]:
    """`"i/n"` as numbers, 0 <= i < n. Raises ConfigError."""
    index, slash, number = shard.partition("/")
    if not slash or not index.isdigit() or not number.isdigit() or not int(index) < int(number):
        raise ConfigError(f"{key}={shard!r}: must be i/n with 0 <= i < n, for example 0/4")
    return int(index), int(number)


def portions(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """`total` split by `shares` into whole numbers that add up to it (largest remainders first)."""
    exact = {key: total * share / sum(shares.values()) for key, share in shares.items()}
    result = {key: int(value) for key, value in exact.items()}
    by_remainder = sorted(exact, key=lambda key: result[key] - exact[key])
    for key in by_remainder[: total - sum(result.values())]:
        result[key] += 1
    return result
