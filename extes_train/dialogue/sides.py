"""The train, valid and test sides of a run, from config section `data`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Protocol

from extes_train.dialogue.control import shuffle_responses
from extes_train.dialogue.jsonl import read_dialogues
from extes_train.dialogue.leak import check_leak
from extes_train.dialogue.schema import Dialogue
from extes_train.dialogue.split import split_dialogues
from extes_train.dialogue.taxonomy import Taxonomy, load_taxonomy
from extes_train.errors import ConfigError, DataError


class DataSection(Protocol):
    """What is read of config section `data` (extes_train.tokens.config.DataConfig)."""

    train: str | None
    valid: str | None
    test: str | None
    valid_fraction: float
    split_seed: int
    taxonomy: str
    shuffle_responses: bool
    leak_check: bool
    max_dialogues: int | None


@dataclass
class Sides:
    """Dialogues by side. `report` counts what came from where and what was left out."""

    train: list[Dialogue]
    valid: list[Dialogue]
    test: list[Dialogue]
    report: dict[str, Any] = field(default_factory=dict)


def load_sides(data: DataSection, train: str | None = None) -> Sides:
    """Read, split and check the sides. `train` replaces `data.train` (augmentation.train).

    - a file whose records name several sides in their provenance gives the side it is asked for;
    - without `data.valid`, records of side valid in the train file are the held-out ones, and where there are none,
      `data.valid_fraction` by hash of the id (0: no held-out side);
    - without `data.test`, valid is also test.

    Raises ConfigError without `data.train`, DataError for a faulty file, an empty side, or a leak.
    """
    path = train or data.train
    if path is None:
        raise ConfigError("data.train: is needed and has no value; add data.train=PATH to the command")
    taxonomy = load_taxonomy(data.taxonomy)
    report: dict[str, Any] = {}
    everything = read_dialogues(path, taxonomy)
    learned, report["left_out"] = _of_side(everything, "train")
    if data.max_dialogues is not None:
        report["beyond_max_dialogues"] = max(0, len(learned) - data.max_dialogues)
        learned = learned[: data.max_dialogues]
    held_out, report["valid_from"] = _held_out(data, everything, taxonomy)
    if held_out is None:
        learned, held_out = split_dialogues(learned, data.valid_fraction, data.split_seed)
    sides = Sides(learned, held_out, _test_side(data, everything, held_out, taxonomy), report)
    _refuse_empty(sides, data, path)
    if data.leak_check:
        _check_leak(sides)
    if data.shuffle_responses:
        sides.train = shuffle_responses(sides.train, data.split_seed)
    report.update(train=len(sides.train), valid=len(sides.valid), test=len(sides.test))
    return sides


def _of_side(dialogues: list[Dialogue], side: str) -> tuple[list[Dialogue], dict[str, int]]:
    """The records of `side` (or of no side), and the count of others; all of them where the file has one side."""
    named = Counter(dialogue.provenance.get("side") for dialogue in dialogues)
    if len(named) == 1:
        return dialogues, {}
    chosen = [dialogue for dialogue in dialogues if dialogue.provenance.get("side") in (side, None)]
    return chosen, {str(name): count for name, count in named.items() if name not in (side, None)}


def _held_out(data: DataSection, everything: list[Dialogue], taxonomy: Taxonomy) -> tuple[list[Dialogue] | None, str]:
    """The valid side and where it comes from; None where it is to be split off by hash."""
    if data.valid is not None:
        return _of_side(read_dialogues(data.valid, taxonomy), "valid")[0], "data.valid"
    recorded = _recorded(everything, "valid")
    if recorded:
        return recorded, "provenance.side"
    return None, f"hash, {data.valid_fraction:g} with seed {data.split_seed}"


def _test_side(
    data: DataSection, everything: list[Dialogue], held_out: list[Dialogue], taxonomy: Taxonomy
) -> list[Dialogue]:
    if data.test is not None and data.test != data.valid:
        return _of_side(read_dialogues(data.test, taxonomy), "test")[0]
    return (_recorded(everything, "test") if data.valid is None else []) or held_out


def _recorded(everything: list[Dialogue], side: str) -> list[Dialogue]:
    """Records of `side` in a file that also has others; a file of that side alone was given as something else."""
    chosen = [dialogue for dialogue in everything if dialogue.provenance.get("side") == side]
    return chosen if len(chosen) < len(everything) else []


def _refuse_empty(sides: Sides, data: DataSection, path: str) -> None:
    wanted = f"data.valid_fraction={data.valid_fraction:g}, data.split_seed={data.split_seed}"
    if not sides.train:
        raise DataError(f"{path}: nothing is left for the train side ({wanted}); give more dialogues or data.valid")
    if not sides.valid and (data.valid is not None or data.valid_fraction > 0):
        source = data.valid or path
        raise DataError(f"{source}: nothing is left for the valid side ({wanted}); give more dialogues or data.valid")


def _check_leak(sides: Sides) -> None:
    checked = {"train": sides.train, "valid": sides.valid, "test": sides.test}
    if sides.test is sides.valid:
        del checked["test"]
    check_leak({name: dialogues for name, dialogues in checked.items() if dialogues})
