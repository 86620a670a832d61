"""Which differences between arms are more than noise.

Arms are scored on the same tokens, so two of them are compared dialogue by dialogue: the difference in log perplexity
is sum(nll - other nll) / targets, over all held-out dialogues. Two things could have made it without either arm being
better, and both variances are added:

- other dialogues could have been held out: the variance of that ratio over dialogues (linearised, as of any ratio
  estimator; a bootstrap over dialogues gives the same, see the tests);
- another seed could have been drawn: deviation^2 / seeds of each arm. Unknown where an arm has one seed, and said so.

The interval is 95 %, Student's t with Welch and Satterthwaite's degrees of freedom, not corrected for the number of
pairs. A difference whose interval holds 0 is within the noise.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

NOISE = "within the noise"
# Student's t, two-sided 95 %, by degrees of freedom 1 to 30
STUDENT_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class Side:
    """One side of a comparison: each seed's NLL of every dialogue."""

    name: str
    nll: list[list[float]]  # by seed, then by dialogue

    def mean_nll(self) -> list[float]:
        """Of each dialogue, over seeds."""
        return [statistics.fmean(values) for values in zip(*self.nll)]

    def seed_variance(self, targets: int) -> float | None:
        """Of the mean log perplexity over seeds; None with one seed."""
        if len(self.nll) < 2:
            return None
        return statistics.variance([math.fsum(nll) / targets for nll in self.nll]) / len(self.nll)


def seed_groups(arms: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Measured arms by their name without the seed."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for arm in arms:
        if arm["metrics"]:
            groups.setdefault(re.sub(rf"-seed{arm['seed']}(?=-|$)", "", arm["name"]), []).append(arm)
    return groups


def read_differences(
    groups: dict[str, list[dict[str, Any]]], lines: dict[str, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Every pair of groups, and each group against the base model; `lines`: of dialogues.jsonl, by arm.

    Empty where an arm has no lines.
    """
    measured = [lines[arm["name"]] for arms in groups.values() for arm in arms]
    if not measured or not all(measured):
        return []
    targets = [line["targets"] for line in measured[0]]
    sides = [Side(name, [[x["nll"] for x in lines[arm["name"]]] for arm in arms]) for name, arms in groups.items()]
    base = Side("base", [[line["base_nll"] for line in measured[0]]])
    pairs = [(one, other) for i, one in enumerate(sides) for other in sides[:i]]
    return [difference(one, other, targets) for one, other in [*pairs, *((side, base) for side in sides)]]


def difference(one: Side, other: Side, targets: Sequence[int]) -> dict[str, Any]:
    """How the perplexity of `one` differs from that of `other`: {"arm", "against", "change", "interval", …}.

    `change` is ppl / other ppl - 1, `interval` its 95 % interval.
    """
    count, total = len(targets), sum(targets)
    gaps = [a - b for a, b in zip(one.mean_nll(), other.mean_nll(), strict=True)]
    ratio = math.fsum(gaps) / total
    rest = [gap - ratio * n for gap, n in zip(gaps, targets)]
    parts: list[tuple[float, float]] = []  # (variance, degrees of freedom)
    if count > 1:
        parts.append((count / (count - 1) * math.fsum(r * r for r in rest) / total**2, count - 1))
    for side in (one, other):
        variance = side.seed_variance(total)
        if variance is not None:
            parts.append((variance, len(side.nll) - 1))
    half = half_width(parts) if count > 1 else math.inf
    low, high = ratio - half, ratio + half
    verdict = "lower" if high < 0 else "higher" if low > 0 else NOISE
    return {
        "arm": one.name,
        "against": other.name,
        "change": math.expm1(min(ratio, 700.0)),
        "interval": [math.expm1(min(low, 700.0)), math.expm1(min(high, 700.0))],
        "verdict": verdict,
        "seeds": [len(one.nll), len(other.nll)],
        "dialogues": count,
    }


def half_width(parts: Sequence[tuple[float, float]]) -> float:
    """Half the 95 % interval of a sum of independent parts, each (variance, degrees of freedom)."""
    variance = math.fsum(v for v, _ in parts)
    if not variance:
        return 0.0
    freedom = variance**2 / math.fsum(v * v / degrees for v, degrees in parts)
    return student_t(freedom) * math.sqrt(variance)


def student_t(freedom: float) -> float:
    """The two-sided 95 % quantile; between whole degrees of freedom the larger one."""
    whole = max(1, int(freedom + 1e-9))
    if whole <= len(STUDENT_T):
        return STUDENT_T[whole - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


@dataclass(frozen=True)
class Block:
    """Differences to show together; `names` are the rows' names."""

    title: str
    names: list[str]
    differences: list[dict[str, Any]]


def blocks(results: dict[str, Any]) -> list[Block]:
    """What a reader asks first: every arm against the best one, and each tuning with alternatives against without."""
    found = {(d["arm"], d["against"]): d for d in results["differences"]}
    best = best_arm(results)
    if best is None:
        return []
    against = [d for pair in found if (d := _turned(found, pair, best)) is not None]
    shown = [Block(f"ppl against {best}", [d["arm"] for d in against], against)] if against else []
    names = {name for pair in found for name in pair} - {"base"}
    pairs = [(name, name.replace("-dri", "", 1)) for name in sorted(names) if "-dri" in name]
    dri = [(none, _of(found, one, none)) for one, none in pairs if none in names]
    if dri and len(names) > 2:  # two arms are compared above
        shown.append(Block("ppl, dri against none", [name for name, _ in dri], [d for _, d in dri]))
    return shown


def best_arm(results: dict[str, Any]) -> str | None:
    """The arm (over its seeds) of the lowest perplexity, None where differences are not known."""
    to_base = {d["arm"]: d["change"] for d in results["differences"] if d["against"] == "base"}
    return min(to_base, key=lambda name: to_base[name], default=None)


def _turned(found: dict[tuple[str, str], dict[str, Any]], pair: tuple[str, str], best: str) -> dict[str, Any] | None:
    """The difference of a pair with `best`, as seen from the other arm."""
    if best not in pair or "base" in pair:
        return None
    one = pair[0] if pair[1] == best else pair[1]
    return _of(found, one, best)


def _of(found: dict[tuple[str, str], dict[str, Any]], one: str, other: str) -> dict[str, Any]:
    """The difference of `one` from `other`, turned round where it was taken the other way."""
    if (one, other) in found:
        return found[one, other]
    taken = found[other, one]
    low, high = taken["interval"]
    turned = {"lower": "higher", "higher": "lower"}
    return taken | {
        "arm": one,
        "against": other,
        "change": _inverse(taken["change"]),
        "interval": [_inverse(high), _inverse(low)],
        "verdict": turned.get(taken["verdict"], NOISE),
        "seeds": taken["seeds"][::-1],
    }


def _inverse(change: float) -> float:
    return 1 / (1 + change) - 1 if change > -1 else math.inf


def note(results: dict[str, Any]) -> str:
    """What the verdicts rest on."""
    seeds = [count for d in results["differences"] for count in (d["seeds"] if d["against"] != "base" else ())]
    dialogues = results["differences"][0]["dialogues"]
    text = f"Paired over {dialogues} held-out dialogues, 95 % intervals"
    if seeds and min(seeds) < 2:
        return text + "; an arm has one seed: what another seed would change is not in them (compare.seeds=[0,1,2])."
    return text + (f", over {min(seeds)} seeds or more." if seeds else ".")
