"""Hydra composition: YAML values onto dataclass schemas, to a plain dataclass. OmegaConf ends here.

`compose` is used by the launcher (schemas of every section) and by workers (schemas of training only; the
sections of the launcher stay untyped). Errors become `ConfigError`s that name the dotted key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

from extes_train.combinations import check_combinations
from extes_train.config import LAUNCHER_SECTIONS, TRAIN_SCHEMAS, TrainConfig
from extes_train.overrides import normalise

T = TypeVar("T", bound=TrainConfig)


def config_directory() -> Path:
    """The folder of the Hydra tree, in a checkout, an editable install or a wheel."""
    return Path(__file__).resolve().parent / "configs"


def group_options() -> dict[str, list[str]]:
    """Config group -> its options, read from the YAML files."""
    root = config_directory()
    groups = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("_"))
    return {group.name: sorted(path.stem for path in group.glob("*.yaml")) for group in groups}


@overload
def compose(overrides: Sequence[str] = ()) -> TrainConfig: ...


@overload
def compose(overrides: Sequence[str], root: type[T], schemas: Mapping[str, type]) -> T: ...


def compose(
    overrides: Sequence[str] = (),
    root: type[TrainConfig] = TrainConfig,
    schemas: Mapping[str, type] = TRAIN_SCHEMAS,
) -> TrainConfig:
    """Compose `configs/config.yaml` with `overrides` to a `root` dataclass.

    Raises ConfigError for an unknown key, group or option, a wrong type, a refused value or combination of values.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    from extes_train.config_errors import explained

    overrides = normalise(overrides)
    if root is TrainConfig:
        overrides = [override for override in overrides if not _foreign(override)]
    with explained(overrides, root, schemas):
        _store_schemas(ConfigStore.instance(), root, schemas)
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(config_directory()), version_base="1.3", job_name="extes"):
            composed = hydra_compose("config", overrides=list(overrides))
        config = OmegaConf.to_object(composed)
    assert isinstance(config, root), type(config)
    check_combinations(config)
    return config


def _foreign(override: str) -> bool:
    """True for an override of a section that only the launcher reads."""
    return re.split(r"[.=@]", override.lstrip("+~"), maxsplit=1)[0] in LAUNCHER_SECTIONS


def _store_schemas(store: Any, root: type, schemas: Mapping[str, type]) -> None:
    """Put `root` and every `GROUP/OPTION_schema` in Hydra's store; schemas not in `schemas` are open dictionaries."""
    store.store(name="root_schema", node=root)
    for group, options in group_options().items():
        for option in options:
            node = schemas.get(f"{group}/{option}")
            store.store(group=group, name=f"{option}_schema", node={} if node is None else node)


def to_yaml(config: Any) -> str:
    """The resolved configuration as YAML, keys in the order of the dataclasses."""
    import yaml

    return yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True, width=120)


def plain(config: Any) -> Any:
    """`config` with dataclasses turned into dictionaries; the launcher's sections only where they are typed."""
    if is_dataclass(config) and not isinstance(config, type):
        values = {field.name: getattr(config, field.name) for field in fields(config)}
        return {
            key: plain(value) for key, value in values.items() if key not in LAUNCHER_SECTIONS or is_dataclass(value)
        }
    if isinstance(config, Mapping):
        return {key: plain(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [plain(value) for value in config]
    return config
