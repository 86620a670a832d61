"""Shards into one data set: exact and near-duplicates across shards go, sides stay, every record is accounted for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_gen.card import write_merge_card
from data_gen.dedup import NearDuplicates, shingle_hashes
from data_gen.filters.text import TextView
from data_gen.output import write_jsonl
from data_gen.progress import Progress
from extes_train.dialogue.jsonl import iterate_dialogues, iterate_lines
from extes_train.dialogue.schema import SIDES, Dialogue, dialogue_from_dict, dialogue_to_dict
from extes_train.dialogue.taxonomy import Taxonomy, load_taxonomy
from extes_train.errors import ConfigError, DataError


@dataclass
class MergeResult:
    """What a merge read and left. `read` = `kept` + the sum of `reasons`."""

    out: Path
    read: int
    kept: int
    reasons: dict[str, int]
    sides: dict[str, int] = field(default_factory=dict)


def merge_shards(
    inputs: Sequence[Path | str],
    out: Path | str,
    taxonomy: str = "any",
    near_duplicate: float = 0.7,
    progress: Progress | None = None,
) -> MergeResult:
    """Merge dialogues.jsonl files or folders that hold one, in the given order, into the folder `out`.

    Of equal or nearly equal dialogues the first one stays. Raises DataError for unreadable input and where a seed
    stands on different sides in two shards: they were generated with different seeds or shares.
    """
    if not inputs:
        raise ConfigError("merge: needs at least one dialogues.jsonl or folder")
    out, labels = Path(out), load_taxonomy(taxonomy)
    files = [Path(p) / "dialogues.jsonl" if Path(p).is_dir() else Path(p) for p in inputs]
    if (out / "dialogues.jsonl").resolve() in [file.resolve() for file in files]:
        raise ConfigError(f"merge: {out} would overwrite one of its inputs")
    kept, reasons, read = _merged(files, labels, near_duplicate)
    _check_lineage(kept)
    sides = Counter(str(d.provenance.get("side")) for d in kept)
    present = [side for side in SIDES if sides[side]]
    out.mkdir(parents=True, exist_ok=True)
    write_jsonl(out / "dialogues.jsonl", map(dialogue_to_dict, kept))
    for side in present:
        write_jsonl(out / f"{side}.jsonl", (dialogue_to_dict(d) for d in kept if d.provenance.get("side") == side))
    write_jsonl(out / "quarantine.jsonl", _quarantined(files))
    write_jsonl(out / "seeds.jsonl", _by_id(files, "seeds.jsonl"))
    counts = {
        "shards": len(files),
        "read": read,
        "kept": len(kept),
        "dropped": reasons.total(),
        "dropped_by_reason": dict(sorted(reasons.items())),
    }
    write_merge_card(counts, map(dialogue_to_dict, kept), labels, out, present)
    result = MergeResult(out, read, len(kept), dict(reasons), {side: sides[side] for side in present})
    dropped = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common()) or "none"
    (progress or Progress()).say(f"{result.kept} of {read} dialogues of {len(files)} shards kept; dropped: {dropped}")
    return result


def _merged(files: list[Path], labels: Taxonomy, threshold: float) -> tuple[list[Dialogue], Counter[str], int]:
    kept: list[Dialogue] = []
    ids: set[str] = set()
    reasons: Counter[str] = Counter()
    near = NearDuplicates(threshold) if threshold > 0 else None
    read = 0
    for file in files:
        for dialogue in iterate_dialogues(file, labels):
            read += 1
            shingles = shingle_hashes(TextView([turn.text for turn in dialogue.turns]))
            if dialogue.id in ids:
                reasons["duplicate"] += 1
            elif near is not None and near.find(shingles):
                reasons["near_duplicate"] += 1
            else:
                ids.add(dialogue.id)
                kept.append(dialogue)
                if near is not None:
                    near.add(dialogue.id, shingles)
    return kept, reasons, read


def _check_lineage(dialogues: list[Dialogue]) -> None:
    """An exemplar belongs to one side, in all shards."""
    side_of: dict[str, Any] = {}
    for dialogue in dialogues:
        side = dialogue.provenance.get("side")
        for exemplar in dialogue.provenance.get("exemplars", ()):
            if side_of.setdefault(exemplar, side) != side:
                raise DataError(
                    f"merge: exemplar {exemplar} stands on the sides {side_of[exemplar]} and {side}: the shards were "
                    f"generated with different generate.seed or generate.sides and cannot be merged without a leak"
                )


def _quarantined(files: list[Path]) -> list[dict[str, Any]]:
    return _by_id(files, "quarantine.jsonl", quarantined=True)


def _by_id(files: list[Path], name: str, quarantined: bool = False) -> list[dict[str, Any]]:
    """The records of every shard's file `name`, checked, each once."""
    import json

    found: dict[str, dict[str, Any]] = {}
    for file in files:
        path = file.with_name(name)
        if path.is_file():
            for where, value in iterate_lines(path):
                record: dict[str, Any] = value  # type: ignore[assignment]
                key = dialogue_from_dict(value, where, quarantined=quarantined).id
                if quarantined:
                    key = f"{key}:{record.get('reason')}:{json.dumps(record['turns'])}"
                found.setdefault(key, record)
    return list(found.values())
