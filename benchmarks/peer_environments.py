"""A virtual environment for each peer that benchmarks/peers.py measures, made once and kept.

TRL and Hugging Face's Trainer see our packages (the same torch and transformers) through a .pth file. LLaMA-Factory
wants older ones of almost everything: it gets its own, with torch as constraints.txt has it. It also asks for
torchvision and torchaudio, which do not go with that torch on a CPU and of which it needs nothing here: it gets an
empty torchaudio.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.tree_inputs import ROOT

PACKAGES = {"trl": "trl==1.16.0", "trainer": None, "llamafactory": "llamafactory==0.9.5"}
NOT_ON_CPU = ("torchvision", "torchaudio")
READY = "ready"  # written into an environment when it is complete


class InstallError(Exception):
    """A peer's packages cannot be had here."""


def python_of(peer: str, work: Path) -> str:
    """The interpreter of `peer`, its environment made under `work` where it is not there yet. Raises InstallError."""
    folder = work / f"venv-{peer}"
    python = folder / "bin" / "python"
    if not (folder / READY).is_file():
        print(f"{peer}: installing into {folder}", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True, clear=True)
        (site,) = (folder / "lib").glob("python*/site-packages")
        package = PACKAGES[peer]
        if peer == "llamafactory" and package:
            _install_llamafactory(python, site, package)
        else:
            ours = next(path for path in sys.path if path.endswith("site-packages"))
            (site / "ours.pth").write_text(f"{ours}\n", encoding="utf-8")
            if package:
                _pip(python, "--no-deps", package)
        (folder / READY).touch()
    return str(python)


def _install_llamafactory(python: Path, site: Path, package: str) -> None:
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    torch = next(line for line in constraints if line.startswith("torch=="))
    _pip(python, torch)
    _pip(python, "--no-deps", package)
    script = f"from importlib.metadata import requires\nprint(*requires({package.split('==')[0]!r}), sep='\\n')"
    named = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    _pip(python, torch, *(line for line in named if ";" not in line and not line.startswith(NOT_ON_CPU)))
    (site / "torchaudio").mkdir(exist_ok=True)
    (site / "torchaudio/__init__.py").touch()


def _pip(python: Path, *words: str) -> None:
    done = subprocess.run([python, "-m", "pip", "install", "-q", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise InstallError(f"pip install {' '.join(words)[:100]}: {done.stderr.strip()[-400:]}")
