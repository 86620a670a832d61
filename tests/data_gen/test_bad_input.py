"""Files of the user that cannot be used: one message, by file and place."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_gen.prompting import load_prompts
from data_gen.seed_dialogues import read_seeds
from data_gen.targets import scenario_shares
from extes_train.dialogue.taxonomy import load_taxonomy
from extes_train.errors import ConfigError, DataError, UserError

TAXONOMY = "name: mine\nscenarios:\n  - {id: only, title: Only}\nstrategies:\n  - {id: ask, title: Ask}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [\n", "no YAML"),
        (b"caf\xe9: 1\n", "no YAML: 'utf-8' codec"),
        (b"breakups-or-divorce: .nan\n", "breakups-or-divorce: nan: a weight is a number"),
        (b"breakups-or-divorce: .inf\n", "breakups-or-divorce: inf: a weight is a number"),
        (b"breakups-or-divorce: 0\n", "all weights are 0"),
        (b"nonsense: 1\n", '"nonsense" is no scenario'),
    ],
)
def test_a_target_that_cannot_be_followed(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "target.yaml"
    path.write_bytes(content)
    with pytest.raises(DataError) as refused:
        scenario_shares(str(path), load_taxonomy("extes"))
    assert str(refused.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("expansion.txt", b"Write a dialogue.", "expansion.txt: must hold $exemplars and $scenario_line"),
        ("inpaint_turn.txt", b"$count", "inpaint_turn.txt: must hold $history"),
        ("expansion.txt", b"caf\xe9 $scenario_line $exemplars", "byte 3 is no UTF-8"),
    ],
)
def test_prompts_that_ask_for_nothing(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        load_prompts(str(tmp_path), load_taxonomy("extes"))
    assert message in str(refused.value)


def test_a_taxonomy_of_ones_own_needs_seeds_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "taxonomy.yaml"
    path.write_text(TAXONOMY)
    with pytest.raises(UserError, match=r"^generate\.seeds: taxonomy mine needs seeds of its own"):
        read_seeds(None, load_taxonomy(str(path)))
