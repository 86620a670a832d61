"""What a queued job will run is fixed when it is submitted: code, overrides, script."""

from __future__ import annotations

import compileall
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from extes_train.dialogue.files import write_text
from extes_train.errors import LaunchError

PACKAGES = ("extes_train", "data_gen", "launch")
SKIPPED = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


def freeze_code(directory: Path) -> Path:
    """Copy our packages to DIRECTORY/slurm/code-DIGEST and return it; the same code is copied once."""
    source = Path(__file__).resolve().parents[2]
    target = directory / "slurm" / f"code-{code_digest(source)}"
    if not target.is_dir():
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        for package in PACKAGES:
            shutil.copytree(source / package, temporary / package, ignore=SKIPPED)  # follows the configs symlink
        compileall.compile_dir(temporary, quiet=2)  # once, and not by every rank at the same time
        os.replace(temporary, target)
    return target


def code_digest(source: Path) -> str:
    """12 hex digits over every file of our packages."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for folder, folders, files in os.walk(source / package, followlinks=True):
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            for name in sorted(files):
                if not name.endswith(".pyc"):
                    path = Path(folder, name)
                    digest.update(f"{path.relative_to(source)}\0".encode())
                    digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def freeze_overrides(path: Path, overrides: Sequence[str]) -> None:
    """One override a line."""
    torn = [word for word in overrides if "\n" in word]
    if torn:
        raise LaunchError(f"{torn[0]!r}: a value with a line break cannot be submitted; write it to a config file")
    write_text(path, "".join(f"{word}\n" for word in overrides))
