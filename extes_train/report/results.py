"""What a comparison came to, read from its files alone: compare.json and each arm's run directory.

results.json

    schema, budget, base, data, experiment, teacher     from compare.json
    digest          of the token list that every arm and the base were scored on
    arms            [{name, tuning, augmentation, seed, state, metrics, cost}]
    groups          mean and standard deviation over seeds, where there are several: [{name, seeds, mean, deviation}]
    differences     of perplexity between arms, and whether they are more than noise (differences.py)
    warnings        what a reader should know before believing the table
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from extes_train.dialogue.files import read_json
from extes_train.errors import DataError
from extes_train.report.differences import NOISE, read_differences, seed_groups

SCHEMA = 1
GROUPED = ("perplexity", "nll_per_byte", "bleu4", "rouge_l", "meteor", "distinct1", "distinct2")


def read_results(directory: Path | str) -> dict[str, Any]:
    """The value of results.json for the comparison in `directory`.

    Raises DataError for a missing or broken compare.json and for arms that were scored on different tokens.
    """
    directory = Path(directory)
    comparison = _comparison(directory)
    arms = [_arm(directory, arm) for arm in comparison["arms"]]
    digest = _common_digest(arms)
    differences = _differences(directory, arms)
    return {
        "schema": SCHEMA,
        "experiment": comparison.get("experiment"),
        "budget": comparison.get("budget"),
        "base": comparison.get("model"),
        "data": comparison.get("data"),
        "teacher": comparison.get("teacher"),
        "digest": digest,
        "arms": arms,
        "groups": _groups(arms),
        "differences": differences,
        "warnings": _warnings(arms) + _doubts(arms, differences),
    }


def run_directory(directory: Path, arm: dict[str, Any]) -> Path:
    """The run of an arm; relative paths count from the comparison, so that it can be moved."""
    return directory / arm["run_dir"]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file; nothing where it is missing, a torn last line left out."""
    if not path.is_file():
        return []
    values = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            values.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return [value for value in values if isinstance(value, dict)]


def _comparison(directory: Path) -> dict[str, Any]:
    path = directory / "compare.json"
    try:
        value = read_json(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; `extes compare` writes it") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: no JSON: {error.msg}") from error
    if not isinstance(value, dict) or not isinstance(value.get("arms"), list) or not value["arms"]:
        raise DataError(f"{path}: arms: expected a list of at least one arm")
    return value


def _arm(directory: Path, arm: dict[str, Any]) -> dict[str, Any]:
    run = run_directory(directory, arm)
    kept = {key: arm.get(key) for key in ("name", "tuning", "augmentation", "seed", "state")}
    kept["run_dir"] = arm["run_dir"]
    kept["metrics"] = _optional(run / "evaluation" / "metrics.json")
    kept["cost"] = _optional(run / "cost.json")
    return kept


def _optional(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path))
    except FileNotFoundError:
        return {}
    except (json.JSONDecodeError, ValueError, TypeError) as error:
        raise DataError(f"{path}: cannot be read: {error}; remove it and run the comparison again") from error


def _common_digest(arms: list[dict[str, Any]]) -> str | None:
    digests: dict[str, list[str]] = {}
    for arm in arms:
        if arm["metrics"]:
            digests.setdefault(str(arm["metrics"].get("digest")), []).append(arm["name"])
    if len(digests) > 1:
        listed = "; ".join(f"{digest}: {', '.join(names)}" for digest, names in digests.items())
        raise DataError(
            f"the arms were scored on different tokens and cannot be compared ({listed}); evaluate them again with "
            "the same held-out data, tokenizer, context length and window settings"
        )
    return next(iter(digests), None)


def _groups(arms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Arms that differ in their seed only, where there are several seeds."""
    groups = []
    for name, same in seed_groups(arms).items():
        if len(same) < 2:
            continue
        values = {key: [arm["metrics"][key] for arm in same if arm["metrics"].get(key) is not None] for key in GROUPED}
        full = {key: found for key, found in values.items() if len(found) == len(same)}
        groups.append(
            {
                "name": name,
                "seeds": [arm["seed"] for arm in same],
                "mean": {key: statistics.fmean(found) for key, found in full.items()},
                "deviation": {key: statistics.stdev(found) for key, found in full.items()},
            }
        )
    return groups


def _differences(directory: Path, arms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """From the arms' evaluation/dialogues.jsonl. Raises DataError where they do not list the same dialogues."""
    files = {a["name"]: run_directory(directory, a) / "evaluation" / "dialogues.jsonl" for a in arms if a["metrics"]}
    lines = {name: read_lines(path) for name, path in files.items()}
    lists = {name: [(line["dialogue"], line["targets"]) for line in found] for name, found in lines.items() if found}
    for name, listed in lists.items():
        if listed != next(iter(lists.values())):
            raise DataError(f"{files[name]}: lists other dialogues than {next(iter(lists))}'s; evaluate it again")
    return read_differences(seed_groups(arms), lines)


def _doubts(arms: list[dict[str, Any]], differences: list[dict[str, Any]]) -> list[str]:
    """What the differences, or their absence, should make a reader doubt."""
    if not differences and any(arm["metrics"] for arm in arms):
        return ["no verdict on differences: an arm has no evaluation/dialogues.jsonl; evaluate it again"]
    return [
        f"{one['arm']}: its perplexity differs from the base model's within the noise only"
        for one in differences
        if one["against"] == "base" and one["verdict"] == NOISE
    ]


def _warnings(arms: list[dict[str, Any]]) -> list[str]:
    warnings = [f"{arm['name']}: {arm['state']}, not in the comparison" for arm in arms if arm["state"] != "finished"]
    measured = [arm for arm in arms if arm["metrics"]]
    for arm in measured:
        metrics = arm["metrics"]
        if metrics["perplexity"] >= metrics["base_perplexity"]:
            warnings.append(f"{arm['name']}: its perplexity is not below the base model's")
        if metrics.get("finished", 1.0) < 0.5:
            warnings.append(
                f"{arm['name']}: only {metrics['finished']:.0%} of its responses ended by themselves; "
                "evaluation.max_new_tokens cut the others"
            )
    if len({round(arm["metrics"]["base_perplexity"], 6) for arm in measured}) > 1:
        warnings.append("the arms do not have the same base model: their base perplexities differ")
    steps = {arm["cost"].get("steps") for arm in measured if arm["cost"]}
    if len(steps) > 1:
        warnings.append(f"the arms took different numbers of steps: {', '.join(map(str, sorted(steps, key=str)))}")
    return warnings
