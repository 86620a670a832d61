"""A model whose download broke off is refused before anything is tokenised."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from extes_train.errors import ModelError
from launch.weights import check_weights, fault_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards and their index."""
    for number in (1, 2):
        save_file({f"w{number}": np.zeros((3, 5), np.float32)}, tmp_path / f"model-{number}.safetensors", {"a": "b"})
    index = {"weight_map": {"w1": "model-1.safetensors", "w2": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


def test_whole_files_pass(folder: Path) -> None:
    check_weights(folder)
    (folder / "model.safetensors.index.json").unlink()
    check_weights(folder)


@pytest.mark.parametrize(("kept", "fault"), [(0, "is cut off: 0 bytes"), (40, "in its header"), (-7, "cut off: .* of")])
def test_a_file_that_is_cut_off(folder: Path, kept: int, fault: str) -> None:
    path = folder / "model-2.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelError, match=rf"model-2\.safetensors: .*{fault}"):
        check_weights(folder)


def test_what_is_something_else(folder: Path) -> None:
    path = folder / "model-1.safetensors"
    path.write_bytes(path.read_bytes() + b"x")
    assert fault_of(path) == "is too long"
    path.write_text("version https://git-lfs.github.com/spec/v1")
    assert fault_of(path) == "is no safetensors file"


def test_shards_that_are_missing(folder: Path) -> None:
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(ModelError, match="1 of 2 shards missing, first model-1"):
        check_weights(folder)
    (folder / "model.safetensors.index.json").write_text("{")
    with pytest.raises(ModelError, match=r"index\.json: cannot be read"):
        check_weights(folder)
