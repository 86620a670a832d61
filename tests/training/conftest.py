"""A tiny model and a few dialogues, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from training.tiny import write_dialogue_file, write_tiny_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """{"data": dialogues.jsonl with alternatives, "model": a folder with an untrained Llama}."""
    folder = tmp_path_factory.mktemp("tiny")
    write_dialogue_file(folder / "dialogues.jsonl")
    write_tiny_model(folder / "dialogues.jsonl", folder / "model")
    return {"data": str(folder / "dialogues.jsonl"), "model": str(folder / "model")}


@pytest.fixture
def command(tiny: dict[str, str], tmp_path: Path) -> list[str]:
    """Overrides of a short run in tmp_path/run."""
    from training.tiny import overrides

    return overrides(tiny, tmp_path / "run")
