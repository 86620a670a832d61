"""The arms of a comparison: which runs there are, and the overrides that make each."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from extes_train.config import LAUNCHER_SECTIONS, TRAIN_SCHEMAS
from extes_train.errors import ConfigError, did_you_mean
from launch.composing import Request, override
from launch.config import CompareConfig

TUNINGS = tuple(name.split("/")[1] for name in TRAIN_SCHEMAS if name.startswith("tuning/"))
AUGMENTATIONS = ("none", "dri")


@dataclass
class Arm:
    """One tuning x augmentation x seed (x point of a sweep)."""

    name: str
    tuning: str
    augmentation: str
    seed: int
    run_dir: Path
    overrides: list[str]  # of `extes_train.train`, complete


def list_arms(request: Request, shared: Sequence[str] = ()) -> list[Arm]:
    """Every arm of `request`, in order; `shared` are further overrides for all (data and model paths).

    Raises ConfigError for an unknown tuning or augmentation, an empty list, or arms with equal names.
    """
    compare = request.config.compare
    kept = [word for word in request.overrides if _shared_key(word)]
    arms = []
    for text, seed, point in itertools.product(compare.arms, compare.seeds, sweep_points(compare.sweep)):
        tuning, augmentation = parse_arm(text)
        name = arm_name(tuning, augmentation, seed, compare, point)
        run_dir = Path(compare.out) / "arms" / name
        own = [f"tuning={tuning}", f"augmentation={augmentation}", f"seed={seed}", override("run_dir", str(run_dir))]
        special = flatten(compare.tuning.get(tuning, {}))
        overrides = [word for word in kept if _fits(word, tuning)] + own
        overrides += [override(key, value) for key, value in [*special.items(), *point.items()]] + list(shared)
        arms.append(Arm(name, tuning, augmentation, seed, run_dir, overrides))
    if not arms:
        raise ConfigError("compare.arms: is empty; name at least one arm such as full/none")
    names = [arm.name for arm in arms]
    if len(set(names)) < len(names):
        raise ConfigError(f"compare.arms={compare.arms}: the same arm twice; each tuning/augmentation once")
    return arms


def parse_arm(text: str) -> tuple[str, str]:
    """("lora", "dri") of "lora/dri"; "lora" alone has no augmentation."""
    tuning, _, augmentation = str(text).partition("/")
    augmentation = augmentation or "none"
    for value, allowed in ((tuning, TUNINGS), (augmentation, AUGMENTATIONS)):
        if value not in allowed:
            hint = did_you_mean(value, allowed)
            raise ConfigError(f"compare.arms={text}: {value!r} is none of {', '.join(allowed)}{hint}")
    return tuning, augmentation


def arm_name(tuning: str, augmentation: str, seed: int, compare: CompareConfig, point: Mapping[str, Any]) -> str:
    """A folder name: full, lora-dri, lora-dri-seed1, full-lr=0.001."""
    parts = [tuning] + ([augmentation] if augmentation != "none" else [])
    parts += [f"seed{seed}"] if len(compare.seeds) > 1 else []
    parts += [f"{key.rpartition('.')[2]}={value}" for key, value in point.items()]
    return "-".join(part.replace("/", "_") for part in parts)


def sweep_points(sweep: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The grid of a sweep: [{key: value, …}, …]; one empty point where nothing is swept."""
    axes = flatten(sweep)
    for key, values in axes.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"compare.sweep.{key}={values!r}: must be a list, e.g. compare.sweep.{key}=[1e-4,3e-4]")
    return [dict(zip(axes, values)) for values in itertools.product(*axes.values())]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries to dotted keys."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result.update(flatten(value, f"{prefix}{key}."))
        else:
            result[f"{prefix}{key}"] = value
    return result


def _shared_key(word: str) -> bool:
    """False for what the arms themselves set, and for the launcher's sections."""
    key = word.lstrip("+~").partition("=")[0]
    return key.split(".")[0] not in LAUNCHER_SECTIONS and key not in ("tuning", "augmentation", "seed", "run_dir")


def _fits(word: str, tuning: str) -> bool:
    """False for a tuning key that this tuning does not have (tuning.r for full)."""
    key = word.lstrip("+~").partition("=")[0]
    if not key.startswith("tuning."):
        return True
    return key.split(".")[1] in {item.name for item in fields(TRAIN_SCHEMAS[f"tuning/{tuning}"])}
