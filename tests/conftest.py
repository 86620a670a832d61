"""Fixtures for all tests. Nothing reaches the user's own cache or the network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", WANDB_SILENT="true", TOKENIZERS_PARALLELISM="false")

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every worker process of the suite has a cache of its own."""
    monkeypatch.setenv("EXTES_CACHE", str(tmp_path_factory.getbasetemp() / "extes-cache"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and models beside the checkout."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs ../shared (real dialogues and models), which is not here")
    return SHARED


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT
