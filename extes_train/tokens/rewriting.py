"""Templates that rewrite earlier turns when later ones follow: each turn has a window of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from extes_train.tokens.encoder import Encoder
from extes_train.tokens.rendering import render_sample
from extes_train.tokens.template import Spoken, Template
from extes_train.tokens.windows import Response, Window, WindowCounts, WindowRules


def single_windows(
    template: Template,
    encoder: Encoder,
    turns: Sequence[Spoken],
    rules: WindowRules,
    dialogue: int,
    context_only: set[int],
) -> tuple[list[Window], WindowCounts]:
    """One window for each turn, with the prefix of its responses; the oldest turns leave until the original fits."""
    windows, counts = [], WindowCounts()
    for number, turn in enumerate(turns):
        if turn.speaker != "supporter" or number in context_only:
            continue
        window, left_out = _single(template, encoder, turns, number, rules, dialogue)
        counts.skipped += [(number, alternative) for alternative in left_out]
        if window is not None:
            windows.append(window)
    return windows, counts


def _single(
    template: Template, encoder: Encoder, turns: Sequence[Spoken], number: int, rules: WindowRules, dialogue: int
) -> tuple[Window | None, list[int]]:
    """(the window of turn `number`, which of its responses do not fit)."""
    others = [spoken.text.strip() for spoken in getattr(turns[number], "alternatives", ())]
    texts = [turns[number].text.strip(), *others]
    for start in range(number + 1):
        if start and rules.seeker_first and turns[start].speaker != "seeker":
            continue
        prefix, ids, _ = render_sample(template, encoder, turns[start:number], texts[0])
        if len(prefix) and len(prefix) + len(ids) <= rules.context_length:
            break
    else:
        return None, list(range(-1, len(others)))
    responses, left_out = [], []
    for alternative, text in enumerate(texts, start=-1):
        _, other, num_end = render_sample(template, encoder, turns[start:number], text)
        if len(prefix) + len(other) > rules.context_length:
            left_out.append(alternative)
        else:
            responses.append(Response(number, alternative, len(prefix), other, num_end, len(text.encode())))
    return Window(dialogue, start, number + 1, np.concatenate([prefix, ids]), responses), left_out
