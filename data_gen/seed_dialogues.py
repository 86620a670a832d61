"""Seed dialogues, read from YAML or JSONL and dealt to sides before anything is generated.

The shipped ones were written one by one for this project, from no template and no data set.

A YAML file is a list of `{scenario, situation, turns: [{speaker, text, strategy?, tags?}]}`; a JSONL file has one such
object (or a whole record of dialogues.jsonl) per line. Ids are computed from the content.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from extes_train.dialogue.jsonl import iterate_lines
from extes_train.dialogue.schema import SCHEMA, SIDES, Dialogue, Turn, dialogue_from_dict, dialogue_id
from extes_train.dialogue.split import side_of, uniform
from extes_train.dialogue.taxonomy import Taxonomy
from extes_train.errors import ConfigError, DataError, did_you_mean

SHIPPED = Path(__file__).resolve().parent / "seeds"
_SUFFIXES = (".yaml", ".yml", ".jsonl")


def read_seeds(path: Path | str | None, taxonomy: Taxonomy) -> list[Dialogue]:
    """The seeds in a file or folder (None: the shipped ones), in the order of file names and entries.

    Raises DataError that starts with `file:entry` (or `file:line`) and names the field.
    """
    root = SHIPPED if path is None else Path(path)
    if not root.exists():
        raise DataError(f"{root}: no such file or folder of seeds")
    if path is None and not any((SHIPPED / f"{name}.yaml").exists() for name in taxonomy.scenarios):
        raise ConfigError(f"generate.seeds: taxonomy {taxonomy.name} needs seeds of its own; name their file or folder")
    files = sorted(p for p in root.iterdir() if p.suffix in _SUFFIXES) if root.is_dir() else [root]
    if root.is_file() and root.suffix not in _SUFFIXES:
        raise DataError(f"{root}: seeds are read from {', '.join(_SUFFIXES)}")
    seeds: dict[str, Dialogue] = {}
    places: dict[str, str] = {}
    for file in files:
        for where, value in _entries(file):
            seed = _seed(value, where, taxonomy)
            if seed.id in seeds:
                raise DataError(f"{where}: the same dialogue is already at {places[seed.id]}; remove one of the two")
            seeds[seed.id], places[seed.id] = seed, where
    if not seeds:
        raise DataError(f"{root}: holds no seed dialogue")
    return list(seeds.values())


def deal_seeds(seeds: list[Dialogue], shares: dict[str, float], seed: int) -> dict[str, list[Dialogue]]:
    """Side -> its seeds, by hash of the seed's id; a side that the hash left empty takes one from the largest side.

    Adding a seed moves no other one, as long as every side has seeds. Raises ConfigError for shares that make no sense
    and DataError where there are fewer seeds than sides.
    """
    sides = check_sides(shares)
    if len(seeds) < len(sides):
        raise DataError(
            f"{len(seeds)} seed dialogues for {len(sides)} sides ({', '.join(sides)}): every side needs one of its own"
        )
    dealt: dict[str, list[Dialogue]] = {side: [] for side in sides}
    for dialogue in seeds:
        dealt[side_of(dialogue.id, sides, seed)].append(dialogue)
    for side in sides:
        if not dealt[side]:
            largest = max(sides, key=lambda name: len(dealt[name]))
            moved = min(dealt[largest], key=lambda d: uniform(d.id, seed + 1))
            dealt[largest].remove(moved)
            dealt[side].append(moved)
    return dealt


def check_sides(shares: dict[str, float]) -> dict[str, float]:
    """`shares` without empty sides, in the order of SIDES. Raises ConfigError unless they add up to 1."""
    for side, share in shares.items():
        if side not in SIDES:
            hint = did_you_mean(side, SIDES)
            raise ConfigError(f"generate.sides.{side}: no such side{hint}; sides: {', '.join(SIDES)}")
        if not isinstance(share, (int, float)) or share < 0:
            raise ConfigError(f"generate.sides.{side}={share!r}: a share is a number from 0 to 1")
    total = sum(shares.values())
    if abs(total - 1) > 1e-6:
        raise ConfigError(f"generate.sides: the shares {shares} add up to {total:g}, not to 1")
    return {side: share for side in SIDES if (share := shares.get(side, 0.0)) > 0}


def _entries(file: Path) -> Iterator[tuple[str, Any]]:
    if file.suffix == ".jsonl":
        yield from iterate_lines(file)
        return
    import yaml

    try:
        value = yaml.load(file.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(value, list):
        raise DataError(f"{file}: expected a list of seed dialogues")
    for number, entry in enumerate(value, start=1):
        yield f"{file}:entry {number}", entry


def _seed(value: Any, where: str, taxonomy: Taxonomy) -> Dialogue:
    if not isinstance(value, dict):
        raise DataError(f"{where}: got {type(value).__name__}, expected scenario, situation and turns")
    record = {"schema": SCHEMA, **value}
    if "id" not in record:
        record["id"] = _id(record)
    record["provenance"] = {"source": "seed", **(record.get("provenance") or {})}
    return dialogue_from_dict(record, where, taxonomy)


def _id(record: dict[str, Any]) -> str:
    """The id of an unchecked record; a placeholder where the check will refuse it anyway."""
    try:
        turns = [Turn(turn["speaker"], turn["text"], turn.get("strategy")) for turn in record["turns"]]
        return dialogue_id(record["scenario"], record["situation"], turns)
    except (KeyError, TypeError, AttributeError):
        return "0" * 16
