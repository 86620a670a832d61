"""Commands in the documents exist: verbs, keys, make targets, files."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from launch.composing import compose_request
from launch.help import SECTIONS
from launch.main import VERBS

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(document: Path) -> list[list[str]]:
    """The words of every shell line of a document."""
    text = document.read_text(encoding="utf-8")
    blocks = re.findall(r"```(?:sh|bash|console)\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line.removeprefix("$ "), comments=True))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_compose(document: Path) -> None:
    for words in commands(document):
        if words[0] == "make":
            targets = re.findall(r"^([\w -]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert words[1] in " ".join(targets).split(), words
        if words[0] != "extes":
            continue
        verb, *rest = words[1:]
        assert verb in VERBS or verb in ("VERB", "--help"), words
        if verb in SECTIONS and not {"--help", "-h"} & set(rest):
            # the page tells how to make a profile of one's own site
            rest = ["launcher=slurm" if word == "launcher=mysite" else word for word in rest]
            rest = [word for word in rest if word not in ("--cfg", "job", "…", "...", "&")]
            compose_request(rest)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    missing = [link for link in links if not (document.parent / link).exists()]
    assert missing == []


def test_the_readme_shows_the_main_commands() -> None:
    verbs = {words[1] for words in commands(ROOT / "README.md") if words[0] == "extes"}
    assert {"import", "train", "generate", "inpaint", "compare", "chat"} <= verbs


def test_the_configuration_page_names_every_option() -> None:
    from extes_train.composition import group_options

    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    for group, options in group_options().items():
        if group == "zero":
            continue  # written as a range
        missing = [option for option in options if f"`{option}`" not in text]
        assert missing == [], group
