"""Scenarios and support strategies, read from YAML: extes (36 and 16), esconv (13 and 8), any, or a user's file.

name: clinic
source: where the lists come from
open_scenarios: false          # true: other scenarios are allowed too
scenarios:
  - {title: "Waiting for Results", definition: "…"}      # id: the slug of the title unless given
strategies:
  - {title: "Reflective Statements", definition: "…", published_count: 14560}
"""

from __future__ import annotations

import functools
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extes_train.errors import DataError, did_you_mean

BUILT_IN = ("extes", "esconv")
_FOLDER = Path(__file__).resolve().parent / "taxonomies"
_KEYS = ("name", "source", "open_scenarios", "open_strategies", "scenarios", "strategies")
_ENTRY_KEYS = ("id", "title", "definition", "published_count")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One life situation. `published_count`: dialogues the source reports for it."""

    id: str
    title: str
    definition: str = ""
    published_count: int | None = None


@dataclass(frozen=True, slots=True)
class Strategy:
    """One support strategy. `published_count`: supporter turns the source reports for it."""

    id: str
    title: str
    definition: str = ""
    published_count: int | None = None


@dataclass(frozen=True)
class Taxonomy:
    """The scenarios and strategies that a file may use, by id. Open ones accept others too."""

    name: str
    scenarios: dict[str, Scenario] = field(default_factory=dict)
    strategies: dict[str, Strategy] = field(default_factory=dict)
    source: str = ""
    open_scenarios: bool = False
    open_strategies: bool = False


def slug(title: str) -> str:
    """`"LGBTQ+ Identity"` -> `"lgbtq-identity"`: lower case; what is no letter or digit becomes one hyphen."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower().replace("'", "")).strip("-")


def load_taxonomy(name: str) -> Taxonomy:
    """The taxonomy called `name`: extes, esconv, any (everything passes), or the path of a YAML file.

    Raises DataError with the file and the entry for what cannot be read.
    """
    if name == "any":
        return Taxonomy("any", open_scenarios=True, open_strategies=True)
    if name in BUILT_IN:
        return _built_in(name)
    path = Path(name)
    if not path.is_file():
        allowed = (*BUILT_IN, "any")
        hint = did_you_mean(name, allowed)
        raise DataError(f'taxonomy "{name}": no such file, and none of {", ".join(allowed)}{hint}')
    return _read(path)


def shelf_hint(word: str, taxonomy: Taxonomy) -> str:
    """`' (it belongs to taxonomy esconv)'` where another built-in taxonomy has `word`, else an empty string."""
    for name in BUILT_IN:
        other = load_taxonomy(name)
        if name != taxonomy.name and (word in other.strategies or word in other.scenarios):
            return f" (it belongs to taxonomy {name}: data.taxonomy={name}, for inpainting inpaint.taxonomy={name})"
    return ""


@functools.cache
def _built_in(name: str) -> Taxonomy:
    return _read(_FOLDER / f"{name}.yaml")


def _read(path: Path) -> Taxonomy:
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: no YAML: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a mapping with the keys {', '.join(_KEYS)}")
    _refuse_unknown(value, _KEYS, str(path))
    return Taxonomy(
        name=str(value.get("name") or path.stem),
        scenarios={entry["id"]: Scenario(**entry) for entry in _entries(value, "scenarios", path)},
        strategies={entry["id"]: Strategy(**entry) for entry in _entries(value, "strategies", path)},
        source=str(value.get("source") or ""),
        open_scenarios=bool(value.get("open_scenarios", False)),
        open_strategies=bool(value.get("open_strategies", False)),
    )


def _entries(value: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    """The checked entries of a list, ids filled in."""
    items = value.get(key) or []
    if not isinstance(items, list):
        raise DataError(f"{path}: {key}: expected a list")
    result: dict[str, dict[str, Any]] = {}
    for i, item in enumerate(items):
        where = f"{path}: {key}[{i}]"
        if not isinstance(item, dict) or not isinstance(item.get("title"), str) or not item["title"].strip():
            raise DataError(f"{where}: expected a mapping with a title")
        _refuse_unknown(item, _ENTRY_KEYS, where)
        identifier = item.get("id") or slug(item["title"])
        if identifier in result:
            raise DataError(f'{where}: the id "{identifier}" is taken by "{result[identifier]["title"]}"')
        result[identifier] = {**item, "id": identifier}
    return list(result.values())


def _refuse_unknown(value: dict[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in value:
        if key not in keys:
            raise DataError(f"{where}: {key}: no such key{did_you_mean(str(key), keys)}; keys: {', '.join(keys)}")
