"""The last job of a comparison: `python -m launch.slurm.report OUT`. States of the arms, then the report."""

from __future__ import annotations

import sys
from pathlib import Path

from extes_train.dialogue.files import read_json, write_json
from launch.arms import Arm
from launch.comparing import arm_state, print_report


def main(arguments: list[str]) -> int:
    """0 when every arm is finished, 1 when the report lacks some."""
    out = Path(arguments[0])
    comparison = read_json(out / "compare.json")
    for listed in comparison["arms"]:
        arm = Arm(
            listed["name"], listed["tuning"], listed["augmentation"], listed["seed"], out / listed["run_dir"],
            listed["overrides"],
        )  # fmt: skip
        listed["state"] = arm_state(arm)
    write_json(out / "compare.json", comparison)
    print_report(out)
    failed = [listed["name"] for listed in comparison["arms"] if listed["state"] != "finished"]
    if failed:
        print(f"failed arms: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
