"""Iterative expansion: which candidate comes next, and what the pool is after each one.

Candidate i is planned from the state after candidate i - lag, and candidates are committed in order, so what the run
computes depends on the replies alone and never on their timing. A candidate is planned only while the accepted and the
pending ones together stay below the size, so nothing is generated to be thrown away at the end.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from data_gen.config import GenerateConfig
from data_gen.dedup import Ids, NearDuplicates, Novelty, Shingles, shingle_hashes
from data_gen.filters.text import TextView
from data_gen.prompting import Exemplar, Messages, Prompts, make_exemplar
from data_gen.seed_dialogues import check_sides, deal_seeds
from data_gen.targets import lacking_strategies, most_wanted, parse_shard, portions, scenario_shares, situation_hint
from extes_train.dialogue.schema import SEEKER, Dialogue

EXHAUSTED_AFTER = 20  # candidates of a scenario on a side after which a low acceptance gives it up
RESISTANCE_SHARE = 0.3  # of prompts that ask for a seeker who resists


@dataclass(slots=True)
class Candidate:
    """One request to come: what its prompt asks for and shows."""

    index: int
    round: int
    side: str
    scenario: str
    hint: str
    strategies: list[str]
    resistance: bool
    exemplars: list[Exemplar]
    seed: int

    @property
    def exemplar_ids(self) -> list[str]:
        return [exemplar.id for exemplar in self.exemplars]


@dataclass(slots=True)
class Round:
    """Statistics of `round_size` candidates."""

    candidates: int = 0
    accepted: int = 0
    novelty: float = 0.0  # sum over accepted dialogues; `mean_novelty` is the figure

    @property
    def acceptance(self) -> float:
        return self.accepted / self.candidates if self.candidates else 0.0

    @property
    def mean_novelty(self) -> float:
        return self.novelty / self.accepted if self.accepted else 0.0


@dataclass
class Pool:
    """What exemplars of a side are drawn from: its seeds and its newest accepted dialogues."""

    seeds: list[Exemplar]
    size: int
    recent: list[Exemplar] = field(default_factory=list)
    added: int = 0

    def add(self, exemplar: Exemplar) -> None:
        """Add an accepted dialogue; the oldest one leaves when the pool is full."""
        if len(self.recent) < self.size:
            self.recent.append(exemplar)
        else:
            self.recent[self.added % self.size] = exemplar
        self.added += 1

    def draw(self, number: int, seed_share: float, rng: random.Random) -> list[Exemplar]:
        """Up to `number` different exemplars, each a seed with probability `seed_share`."""
        drawn: dict[str, Exemplar] = {}
        for _ in range(number * 4):
            if len(drawn) == number:
                break
            from_seeds = not self.recent or rng.random() < seed_share
            exemplar = rng.choice(self.seeds if from_seeds else self.recent)
            drawn[exemplar.id] = exemplar
        return list(drawn.values())


class Expansion:
    """The state of a run. `plan` says what may be asked now, `commit` takes the outcomes in order."""

    def __init__(self, config: GenerateConfig, prompts: Prompts, seeds: list[Dialogue]) -> None:
        self.config, self.prompts, self.taxonomy = config, prompts, prompts.taxonomy
        shard, shards = parse_shard("generate.shard", config.shard)
        self.size = config.num_dialogues // shards + (shard < config.num_dialogues % shards)
        self.side_shares = check_sides(config.sides)
        self.side_sizes = portions(self.size, self.side_shares)
        self.seeds = deal_seeds(seeds, self.side_shares, config.seed)
        self.scenario_shares = scenario_shares(config.target, self.taxonomy)
        self.max_candidates = config.max_candidates or 20 * max(self.size, 1)
        self.pools = {
            side: Pool([make_exemplar(seed) for seed in dealt], config.pool_size) for side, dealt in self.seeds.items()
        }
        self.planned = 0
        self.committed = 0
        self.stopped: str | None = None if self.size else "size"
        self.accepted: Counter[str] = Counter()  # by side
        self.reasons: Counter[str] = Counter()
        self.strategies: Counter[str] = Counter()
        self.scenarios: dict[str, Counter[str]] = {side: Counter() for side in self.pools}  # accepted and pending
        self.pending: Counter[str] = Counter()  # by side
        self.tried: dict[str, Counter[str]] = {side: Counter() for side in self.pools}
        self.kept: dict[str, Counter[str]] = {side: Counter() for side in self.pools}
        self.exhausted: dict[str, frozenset[str]] = {side: frozenset() for side in self.pools}
        self.rounds: list[Round] = []
        self.ids = Ids()
        self.novelty = Novelty()
        self.near = NearDuplicates(config.filters.near_duplicate) if config.filters.near_duplicate > 0 else None
        for seed in seeds:
            shingles = shingle_hashes(TextView([turn.text for turn in seed.turns]))
            self.novelty.add(shingles)
            if self.near is not None:
                self.near.add(seed.id, shingles)

    @property
    def done(self) -> bool:
        """True when no candidate will be planned or waited for any more."""
        return self.stopped is not None

    def plan(self) -> list[Candidate]:
        """The candidates that may be asked for now; call it at the start and after every commit."""
        found = []
        while (
            self.stopped is None
            and self.planned < min(self.committed + self.config.resolved_lag, self.max_candidates)
            and self.accepted.total() + self.planned - self.committed < self.size
        ):
            found.append(self._candidate())
        return found

    def messages(self, candidate: Candidate) -> Messages:
        """The candidate's prompt."""
        c = candidate
        return self.prompts.expansion(c.scenario, c.hint, c.strategies, c.resistance, self.config.turns, c.exemplars)

    def commit(self, candidate: Candidate, reason: str | None, dialogue: Dialogue | None, shingles: Shingles) -> Any:
        """Take candidate number `committed`. `reason`: why it was rejected by itself; None asks the pool.

        Returns (reason or None, id of the dialogue it repeats or None).
        """
        assert candidate.index == self.committed, (candidate.index, self.committed)
        of = None
        if reason is None:
            assert dialogue is not None
            reason, of = self._against_pool(dialogue, shingles)
        self.committed += 1
        side, scenario = candidate.side, candidate.scenario
        self.pending[side] -= 1
        self.tried[side][scenario] += 1
        round_ = self._round(candidate.round)
        round_.candidates += 1
        if reason is None:
            assert dialogue is not None
            self._accept(candidate, dialogue, shingles, round_)
        else:
            self.reasons[reason] += 1
            self.scenarios[side][scenario] -= 1
            self._give_up_hopeless(side, scenario)
        self._stop(round_)
        return reason, of

    def _against_pool(self, dialogue: Dialogue, shingles: Shingles) -> tuple[str | None, str | None]:
        if int(dialogue.id, 16) in self.ids:
            return "duplicate", dialogue.id
        if self.near is not None and (found := self.near.find(shingles)):
            return "near_duplicate", found[0]
        return None, None

    def _accept(self, candidate: Candidate, dialogue: Dialogue, shingles: Shingles, round_: Round) -> None:
        self.ids.add(int(dialogue.id, 16))
        if self.near is not None:
            self.near.add(dialogue.id, shingles)
        self.accepted[candidate.side] += 1
        self.kept[candidate.side][candidate.scenario] += 1
        if self.config.num_exemplars:
            self.pools[candidate.side].add(make_exemplar(dialogue))
        self.strategies.update(turn.strategy for turn in dialogue.turns if turn.strategy is not None)
        round_.accepted += 1
        round_.novelty += self.novelty.add(shingles)

    def _give_up_hopeless(self, side: str, scenario: str) -> None:
        tried = self.tried[side][scenario]
        if tried >= EXHAUSTED_AFTER and self.kept[side][scenario] / tried < self.config.min_acceptance:
            self.exhausted[side] |= {scenario}
            if len(self.exhausted[side]) == len(self.scenario_shares):
                self.stopped = "acceptance"

    def _stop(self, round_: Round) -> None:
        config = self.config
        if self.accepted.total() >= self.size:
            self.stopped = "size"
        elif self.committed >= self.max_candidates:
            self.stopped = "max_candidates"
        elif round_.candidates == config.round_size and self.stopped is None:
            if round_.acceptance < config.min_acceptance:
                self.stopped = "acceptance"
            elif round_.accepted and round_.mean_novelty < config.min_novelty:
                self.stopped = "novelty"

    def _round(self, number: int) -> Round:
        while len(self.rounds) <= number:
            self.rounds.append(Round())
        return self.rounds[number]

    def _candidate(self) -> Candidate:
        config, index = self.config, self.planned
        seed = candidate_seed(config.seed, config.shard, index)
        rng = random.Random(seed)
        open_sides = {
            s: share for s, share in self.side_shares.items() if self.accepted[s] + self.pending[s] < self.side_sizes[s]
        }
        counts = {side: self.accepted[side] + self.pending[side] for side in open_sides}
        fullness = {side: counts[side] / self.side_sizes[side] for side in open_sides}
        side = min(open_sides, key=lambda s: (fullness[s], -self.side_sizes[s]))
        scenario = most_wanted(
            self.scenario_shares, self.scenarios[side], self.side_sizes[side], rng, self.exhausted[side]
        )
        self.planned += 1
        self.pending[side] += 1
        self.scenarios[side][scenario] += 1
        return Candidate(
            index=index,
            round=index // config.round_size,
            side=side,
            scenario=scenario,
            hint=situation_hint(rng),
            strategies=lacking_strategies(self.strategies, self.taxonomy, config.strategy_hints, rng),
            resistance=rng.random() < RESISTANCE_SHARE,
            exemplars=self.pools[side].draw(config.num_exemplars, config.seed_share, rng),
            seed=seed,
        )


def candidate_seed(seed: int, shard: str, index: int) -> int:
    """A 48-bit seed that no other candidate of this run or of another shard shares."""
    return int.from_bytes(hashlib.sha256(f"candidate:{seed}:{shard}:{index}".encode()).digest()[:6], "big")


def has_resistance(dialogue: Dialogue) -> bool:
    """True where the seeker resists, by the tag on a turn."""
    return any("resistance" in turn.tags for turn in dialogue.turns if turn.speaker == SEEKER)
