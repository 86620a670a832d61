"""The YAML header with which `datasets.load_dataset(FOLDER)` finds the sides and their columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SPLITS = {"train": "train", "valid": "validation", "test": "test", "base": "base"}  # our side -> their split


def hugging_face_header(out: Path, sides: list[str], card: dict[str, Any]) -> str:
    """README.md's front matter. `sides`: those with records; without any, the whole file is split `train`."""
    import yaml

    files = [{"split": SPLITS[side], "path": f"{side}.jsonl"} for side in sides]
    if not files:
        files = [{"split": "train", "path": "dialogues.jsonl"}]
    generated = "provenance" if card["what"] == "generate" else None
    del generated, out
    features: list[dict[str, Any]] = [
        {"name": "schema", "dtype": "int64"},
        *({"name": name, "dtype": "string"} for name in ("id", "scenario", "situation")),
        {"name": "turns", "list": _turn_features()},
        {"name": "provenance", "dtype": "string"},
    ]
    header = {
        "pretty_name": "ExTES dialogues",
        "tags": ["synthetic", "dialogue", "emotional-support"],
        "configs": [{"config_name": "default", "data_files": files}],
        "dataset_info": {"config_name": "default", "features": features},
    }
    return "---\n" + yaml.safe_dump(header, sort_keys=False) + "---\n"


def _turn_features() -> list[dict[str, Any]]:
    provenance = [{"name": name, "dtype": "string"} for name in ("source", "teacher", "prompt_sha256", "context")]
    provenance += [{"name": "seed", "dtype": "int64"}, {"name": "probability", "dtype": "float64"}]
    alternative: list[dict[str, Any]] = [
        {"name": "text", "dtype": "string"},
        {"name": "strategy", "dtype": "string"},
        {"name": "provenance", "struct": provenance},
    ]
    return [
        {"name": "speaker", "dtype": "string"},
        {"name": "text", "dtype": "string"},
        {"name": "strategy", "dtype": "string"},
        {"name": "alternatives", "list": alternative},
        {"name": "tags", "list": "string"},
    ]
