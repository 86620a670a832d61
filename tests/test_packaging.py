"""The wheel: built here, unpacked, and used without the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SOURCES = (
    "setup.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "configs",
    "extes_train",
    "data_gen",
    "launch",
    "tests",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the checkout, so that the checkout's own build folders neither help nor change."""
    root = Path(__file__).resolve().parent.parent
    copy = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        source = root / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, copy / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(source, copy / name)
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "-w",
        str(out),
        ".",
    ]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("extes-*.whl")
    return built


def names(wheel: Path) -> set[str]:
    """Every file in the wheel."""
    with zipfile.ZipFile(wheel) as file:
        return {name for name in file.namelist() if not name.endswith("/")}


def test_the_wheel_holds_every_file_that_the_code_reads(wheel: Path, root: Path) -> None:
    """All data files of the packages; configs reach it through the link in extes_train."""
    expected = {
        f"extes_train/configs/{path.relative_to(root / 'configs')}" for path in (root / "configs").rglob("*.yaml")
    }
    for package in ("extes_train", "data_gen", "launch"):
        for path in (root / package).rglob("*"):
            relative = path.relative_to(root)
            if path.is_file() and "__pycache__" not in relative.parts and "configs" not in relative.parts:
                expected.add(str(relative))
    assert len([name for name in expected if name.startswith("extes_train/configs/")]) >= 40
    assert len([name for name in expected if name.startswith("data_gen/seeds/")]) >= 1
    assert expected - names(wheel) == set()


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    """No tests, no top-level `configs` and no benchmarks that would land in a user's site-packages."""
    tops = {name.split("/")[0] for name in names(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"extes_train", "data_gen", "launch"}
    assert not [name for name in names(wheel) if "test_" in name or name.endswith((".pyc", ".so"))]


def test_the_wheel_declares_command_and_extras(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        (entry,) = [name for name in file.namelist() if name.endswith("entry_points.txt")]
        (meta,) = [name for name in file.namelist() if name.endswith(".dist-info/METADATA")]
        assert "extes = launch.main:main" in file.read(entry).decode()
        metadata = file.read(meta).decode()
    for extra in ("gpu", "ui", "dev", "bench"):
        assert f"Provides-Extra: {extra}" in metadata
    for needed in ("torch", "deepspeed", "transformers", "peft", "datasets", "wandb", "hydra-core"):
        assert f"Requires-Dist: {needed}" in metadata
    assert "Requires-Python: >=3.10" in metadata


def test_an_unpacked_wheel_composes_and_reads_its_data(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "site")
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path / "site")!r})
sys.path = [p for p in sys.path if p not in ("", {str(Path(__file__).resolve().parent.parent)!r})]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "").lower()
                 and "editable" not in repr(finder).lower()]
from pathlib import Path
from extes_train.composition import compose, config_directory
from extes_train.dialogue.taxonomy import load_taxonomy
from launch.config import SCHEMAS, RootConfig
import data_gen.config, launch.main
for module in (data_gen.config, launch.main):
    assert module.__file__.startswith({str(tmp_path)!r}), module.__file__
assert str(config_directory()).startswith({str(tmp_path)!r})
print(compose(["experiment=quickstart"], RootConfig, SCHEMAS).compare.out)
extes, esconv = load_taxonomy("extes"), load_taxonomy("esconv")
print(len(extes.scenarios), len(extes.strategies), len(esconv.strategies))
sys.exit(launch.main.main(["--help"]))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["outputs/quickstart", "36 16 8"]
