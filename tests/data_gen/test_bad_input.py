"""Files of the user that cannot be used: one message, by file and place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from data_gen.config import GenerateConfig, TeacherConfig
from data_gen.generate import generate
from data_gen.journal import NAME, Journal
from data_gen.progress import Progress
from data_gen.prompting import load_prompts
from data_gen.seed_dialogues import read_seeds
from data_gen.targets import scenario_shares
from extes_train.dialogue.taxonomy import load_taxonomy
from extes_train.errors import ConfigError, DataError, RunDirError, UserError

TAXONOMY = "name: mine\nscenarios:\n  - {id: only, title: Only}\nstrategies:\n  - {id: ask, title: Ask}\n"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of 3 dialogues."""
    out = tmp_path_factory.mktemp("finished") / "out"
    generate(GenerateConfig(out=str(out), num_dialogues=3), TeacherConfig(concurrency=1), Progress(enabled=False))
    return out


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


@pytest.mark.parametrize(
    ("number", "old", "new", "message"),
    [
        (1, b'"digest"', b'"digits"', "was begun with other settings"),
        (1, b'{"kind":"header"', b'{"my":"notes"', "journal.jsonl:1: not a journal of ours"),
        (2, b'"kind"', b'"kine"', "journal.jsonl:2: no journal record"),
        (2, b'"index"', b'"indes"', "journal.jsonl:2: no journal record"),
        (2, b'"tokens"', b'"tokenz"', "record 0 was damaged or edited"),
        (2, b'"prompt_sha256":"', b'"prompt_sha256":"0', "record 0 answers another prompt"),
        (2, b'"schema":1', b'"schema":7', "record 0: schema: got 7"),
    ],
)
def test_an_edited_journal_is_refused_and_left_alone(
    finished: Path, tmp_path: Path, number: int, old: bytes, new: bytes, message: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    lines = (out / NAME).read_bytes().splitlines(keepends=True)
    assert old in lines[number - 1]
    lines[number - 1] = lines[number - 1].replace(old, new, 1)
    (out / NAME).write_bytes(b"".join(lines))
    with pytest.raises(UserError) as refused:
        generate(GenerateConfig(out=str(out), num_dialogues=3), TeacherConfig(concurrency=1), Progress(enabled=False))
    assert message in str(refused.value)
    assert (out / NAME).read_bytes() == b"".join(lines)


def test_a_journal_cut_anywhere_in_its_last_lines_goes_on(finished: Path, tmp_path: Path) -> None:
    whole = (finished / NAME).read_bytes()
    settings = json.loads(whole.splitlines()[0])["settings"]
    path = tmp_path / NAME
    for size in [*range(0, 40), *range(len(whole) - 300, len(whole) + 1)]:
        path.write_bytes(whole[:size])
        with Journal(path, "generate", settings) as journal:
            kept = list(journal.records())
        left = path.read_bytes()
        assert len(kept) == left.count(b"\n") - 1
        if size > 40:
            assert left == whole[: whole.rfind(b"\n", 0, size) + 1]


def test_a_file_of_someone_elses_is_no_journal(tmp_path: Path) -> None:
    path = tmp_path / NAME
    for content in (b"my notes\n", b"my notes", b"{}\n"):
        path.write_bytes(content)
        with pytest.raises(RunDirError, match="not a journal of ours"), Journal(path, "generate", {}):
            pass
        assert path.read_bytes() == content
