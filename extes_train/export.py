"""`python -m extes_train.export RUN OUT`: a run's model as full weights that need neither ExTES nor peft.

An adapter is merged into its base and must give the adapter's logits; a full model is copied. OUT appears in one
rename, so a stopped export leaves nothing that could be taken for a model.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from extes_train.dialogue.files import read_json, sync_directory, write_text
from extes_train.errors import ModelError, RunDirError
from extes_train.worker import run_worker


def main(arguments: Sequence[str]) -> None:
    """Export as `arguments` say and print one line."""
    parser = argparse.ArgumentParser(prog="python -m extes_train.export", description="A run's model as full weights.")
    parser.add_argument("run", help="run directory, or a model or adapter folder")
    parser.add_argument("out", help="folder to write; must not exist, or be empty")
    parser.add_argument("--base", help="base model of an adapter, where it is no longer where it was")
    options = parser.parse_args(arguments)
    print(export_weights(options.run, options.out, options.base))


def export_weights(run: Path | str, out: Path | str, base: str | None = None) -> str:
    """Write the model of `run` to `out` in Hugging Face's layout; returns what was done, in one line.

    Raises ModelError where there is no model or its adapter has no merged form, RunDirError for an `out` in use,
    TrainingError where the merged weights do not give the adapter's logits.
    """
    source, out = model_folder(Path(run)), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunDirError(f"{out}: exists and is not empty; name another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        done = _write(source, temporary, base)
        if out.exists():
            out.rmdir()
        os.replace(temporary, out)
        sync_directory(out.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return f"{out}: {done}"


def model_folder(run: Path) -> Path:
    """RUN/model of a run directory, or the folder itself where it is a model or an adapter."""
    for folder in (run / "model", run):
        if (folder / "adapter_config.json").is_file() or (folder / "config.json").is_file():
            return folder
    if not run.exists():
        raise ModelError(f"{run}: no such folder")
    raise ModelError(f"{run}: holds no model; a finished run has one in {run / 'model'}")


def _write(source: Path, folder: Path, base: str | None) -> str:
    if not (source / "adapter_config.json").is_file():
        shutil.copytree(source, folder)
        return f"a copy of the full model in {source}"
    named = base or read_json(source / "adapter_config.json").get("base_model_name_or_path") or ""
    if not Path(named).is_dir() and (named.startswith(("/", ".", "~")) or named.count("/") != 1):
        raise ModelError(f"{source}: its base model {named!r} is not there; say where it is with --base FOLDER")
    from extes_train.model.merging import merge_adapter

    difference = merge_adapter(source, folder, base)
    write_text(folder / "README.md", _card(source))
    return f"{source} merged; its logits differ from the adapter's by {difference:.1e} of the largest"


def _card(adapter: Path) -> str:
    """The adapter's card with the head of a full model."""
    file = adapter / "README.md"
    text = file.read_text(encoding="utf-8") if file.is_file() else "# Model for emotional-support dialogue\n"
    text = text.replace('library_name: "peft"', 'library_name: "transformers"')
    return text.replace("# Adapter for", "# Model for") + "\nThe adapter is merged into the base model's weights.\n"


if __name__ == "__main__":
    run_worker(main)
