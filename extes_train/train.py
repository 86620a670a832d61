"""The worker of a training run: compose, load the data, join the other ranks, train.

python -m extes_train.train OVERRIDES        one process
torchrun --nproc-per-node 2 -m extes_train.train OVERRIDES
python -m extes_train.train --cfg job OVERRIDES      print the configuration and stop
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from extes_train.composition import compose, to_yaml
from extes_train.worker import rank_environment, run_worker


def main(arguments: Sequence[str]) -> None:
    """Train once with the overrides `arguments`."""
    arguments = list(arguments)
    show_config = arguments[:2] == ["--cfg", "job"]
    overrides = arguments[2:] if show_config else arguments
    config = compose(overrides)
    if show_config:
        print(to_yaml(config), end="")
        return

    from extes_train.training.assembly import load_run_data, resolved
    from extes_train.training.run import announce, run_training, show_sample

    config = resolved(config)
    data = load_run_data(config)
    if config.debug.name == "show":
        print(show_sample(config, data, color=sys.stdout.isatty()))
        return

    from extes_train.engine.process_group import process_group

    with rank_environment(), process_group(config.distributed) as group:
        announce(config, data, group)
        run_training(config, data, group, overrides)


if __name__ == "__main__":
    run_worker(main)
