"""The tracker of a generation or an inpainting: the same wandb process that training has, fed by `data_gen`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from launch.config import RootConfig


def without_tracker(words: Sequence[str]) -> list[str]:
    """`words` with tracker=none, where they say nothing of a tracker: a data set's folder gets none unasked."""
    asked = any(word.lstrip("+~").partition("=")[0].split(".")[0] == "tracker" for word in words)
    return list(words) if asked else [*words, "tracker=none"]


def feed_opener(config: RootConfig, out: str, section: str) -> Callable[[], Any] | None:
    """Opens wandb's run in the folder `out`, under the same id whenever it is used again; None with tracker=none.

    `section` is the part of the configuration, beside the teacher's, that the run is described by.
    """
    if config.tracker.name == "none":
        return None

    def open_feed() -> Any:
        from extes_train.composition import plain
        from extes_train.training.run_dir import RunDir
        from extes_train.training.tracking import WandbFeed, wandb_arguments

        settings = plain(config)
        described = {name: settings[name] for name in (section, "teacher")}
        return WandbFeed(wandb_arguments(RunDir(Path(out)), config.tracker, described), record="card.json")

    return open_feed
