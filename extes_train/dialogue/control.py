"""A control for experiments: the same responses, each in a dialogue it does not belong to."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from extes_train.dialogue.schema import SUPPORTER, Dialogue, Turn, make_dialogue
from extes_train.errors import DataError


def shuffle_responses(dialogues: Sequence[Dialogue], seed: int = 0) -> list[Dialogue]:
    """Give every supporter turn the text, strategy and alternatives of a supporter turn of another dialogue.

    A derangement across dialogues, fixed by `seed`: every response is used once and none stays in its dialogue.
    Seeker turns stay. The new ids follow from the new content; `provenance.shuffled_from` has the old one.
    Raises DataError where one dialogue has more than half of all supporter turns, so that no such order exists.
    """
    rng = random.Random(seed)
    places: list[tuple[int, int]] = []
    for i in rng.sample(range(len(dialogues)), len(dialogues)):
        own = [(i, j) for j, turn in enumerate(dialogues[i].turns) if turn.speaker == SUPPORTER]
        places += rng.sample(own, len(own))
    longest = max((sum(t.speaker == SUPPORTER for t in d.turns) for d in dialogues), default=0)
    if not places or 2 * longest > len(places):
        raise DataError(
            f"data.shuffle_responses=true: one of {len(dialogues)} dialogues has {longest} of all {len(places)} "
            f"supporter turns, so its responses have nowhere to go; give more dialogues"
        )
    # turns of one dialogue are neighbours in `places`: a rotation by at least `longest` leaves none in its dialogue
    offset = rng.randint(longest, len(places) - longest)
    donors = {place: places[(k + offset) % len(places)] for k, place in enumerate(places)}
    result = []
    for i, dialogue in enumerate(dialogues):
        turns = [
            _with_response(turn, dialogues[donors[i, j][0]].turns[donors[i, j][1]])
            if turn.speaker == SUPPORTER
            else turn
            for j, turn in enumerate(dialogue.turns)
        ]
        provenance = {**dialogue.provenance, "shuffled_from": dialogue.id}
        result.append(make_dialogue(dialogue.scenario, dialogue.situation, turns, provenance))
    return result


def _with_response(turn: Turn, donor: Turn) -> Turn:
    return replace(turn, text=donor.text, strategy=donor.strategy, alternatives=list(donor.alternatives))
