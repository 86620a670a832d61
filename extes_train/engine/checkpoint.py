"""DeepSpeed's checkpoints of an engine, and their way to another number of ranks.

    DIR/TAG/             DeepSpeed's files; frozen weights are left out
    DIR/TAG.json         {"world_size", "stage", "steps"}
    DIR/TAG-universal/   made on demand, when another number of ranks or another ZeRO stage reads DIR/TAG

The files are DeepSpeed's own pickles, read by DeepSpeed: they are for resuming one's own runs, not for exchange.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

from extes_train.dialogue.files import read_json, write_json, write_text
from extes_train.engine.process_group import ProcessGroup
from extes_train.errors import RunDirError


def save_engine(wrapped: Any, group: ProcessGroup, stage: int, directory: Path, tag: str) -> None:
    """Write `directory`/`tag`; all ranks call it."""
    wrapped.save_checkpoint(str(directory), tag=tag, save_latest=False, exclude_frozen_parameters=True)
    if group.is_first:
        facts = {"world_size": group.world_size, "stage": stage, "steps": wrapped.global_steps}
        write_json(directory / f"{tag}.json", facts)
    group.barrier()


def load_engine(wrapped: Any, group: ProcessGroup, stage: int, directory: Path, tag: str) -> None:
    """Read `directory`/`tag` into a new engine; all ranks call it.

    Raises RunDirError where it is missing or cannot be dealt to this number of ranks and this stage.
    """
    facts_file = directory / f"{tag}.json"
    if not facts_file.is_file():
        raise RunDirError(f"{directory}: no engine checkpoint {tag!r} (or one that was never completed)")
    facts = read_json(facts_file)
    same_stage, same_size = facts["stage"] == stage, facts["world_size"] == group.world_size
    if not same_stage:
        raise RunDirError(
            f"{directory} was written with zero.stage={facts['stage']}, this run has zero.stage={stage}; "
            f"resume with zero.stage={facts['stage']}, or start from the saved model"
        )
    if same_size or stage == 0:  # at stage 0 every rank has everything, and rank 0 wrote it
        _load(wrapped, directory, tag)
        return
    error = _converted_by_first(group, stage, directory, tag)
    if error is not None:
        raise RunDirError(
            f"{directory}: cannot deal the checkpoint of {facts['world_size']} ranks to {group.world_size} ({error}); "
            f"resume with {facts['world_size']} ranks"
        )
    wrapped._config.load_universal_checkpoint = True
    try:
        _load(wrapped, directory, f"{tag}-universal")
    finally:
        wrapped._config.load_universal_checkpoint = False


def _load(wrapped: Any, directory: Path, tag: str) -> None:
    path, _ = wrapped.load_checkpoint(str(directory), tag=tag, load_module_strict=False)
    if path is None:
        raise RunDirError(f"{directory / tag}: DeepSpeed finds no checkpoint here")


def _converted_by_first(group: ProcessGroup, stage: int, directory: Path, tag: str) -> str | None:
    """Rank 0 makes the universal form unless it is there; what went wrong, on every rank."""
    error = None
    if group.is_first and not (directory / "latest_universal").is_file():
        try:
            _convert(directory / tag, directory / f"{tag}-universal", stage)
            write_text(directory / "latest_universal", f"{tag}-universal")
        except Exception as exception:
            error = f"{type(exception).__name__}: {exception}"
    return group.broadcast(error)


def _convert(source: Path, target: Path, stage: int) -> None:
    """DeepSpeed's ds_to_universal, in this process. Stages 1 and 2 lack what only its other engines write."""
    from deepspeed.checkpoint import ds_to_universal

    shutil.rmtree(target, ignore_errors=True)
    arguments = Namespace(
        input_folder=str(source), output_folder=str(target), num_extract_workers=1, num_merge_workers=1,
        keep_temp_folder=False, strict=stage == 3, inject_missing_state=stage < 3,
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ds_to_universal.main(arguments)
