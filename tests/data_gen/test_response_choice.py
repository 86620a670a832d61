"""The choice among candidates: near-copies out, the different ones first, every candidate accounted for."""

from __future__ import annotations

import pytest

from data_gen.diversity import Response, bleu, choose, consistency, distinct, self_bleu, similarity

ORIGINAL = Response("That sounds lonely. How long have you been eating alone at work?", "clarification")
COPY = Response("That sounds so lonely. How long have you been eating alone at work now?", "clarification")
REFRAME = Response("Maybe the groups formed before you came, and say little about you.", "reframe-negative-thoughts")
PLAN = Response("Shall we pick one colleague and one small question for tomorrow?", "collaborative-planning")
HOPE = Response("Newcomers do find their table, even if March felt endless.", "offer-hope")


def test_near_copies_of_original_and_each_other_are_refused() -> None:
    again = Response(PLAN.text + " Yes?", PLAN.strategy)
    choice = choose([COPY, REFRAME, PLAN, again], [ORIGINAL], 3, 0.6, vary=True)
    assert {r.text for r in choice.kept} in ({REFRAME.text, PLAN.text}, {REFRAME.text, again.text})
    assert choice.reasons == {"near_copy": 2}


def test_what_is_not_needed_is_surplus() -> None:
    choice = choose([REFRAME, PLAN, HOPE], [ORIGINAL], 2, 0.6, vary=True)
    assert len(choice.kept) == 2 and choice.reasons == {"surplus": 1}
    assert choose([], [ORIGINAL], 2, 0.6, vary=True).kept == []


def test_variety_of_strategies_counts_when_asked_for() -> None:
    first = Response("It wears you down to sit there day after day.", "clarification")
    choice = choose([first, HOPE], [ORIGINAL], 1, 0.6, vary=True)
    assert choice.kept == [HOPE]


def test_measures_at_their_ends() -> None:
    same = [ORIGINAL, Response(ORIGINAL.text)]
    assert self_bleu(same) == pytest.approx(1.0) and similarity(*same) == 1.0 and distinct(same, 2) == 0.5
    assert self_bleu([ORIGINAL]) == 0.0
    assert bleu(HOPE, [ORIGINAL]) < 0.1 < bleu(COPY, [ORIGINAL])
    assert 0 <= self_bleu([ORIGINAL, COPY, HOPE]) <= 1


def test_bleu_agrees_with_sacrebleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    metric = sacrebleu.metrics.BLEU(effective_order=True, smooth_method="add-k", smooth_value=1, tokenize="none")
    for candidate, references in ((COPY, [ORIGINAL]), (HOPE, [ORIGINAL, PLAN]), (PLAN, [REFRAME, HOPE, ORIGINAL])):
        expected = metric.sentence_score(
            " ".join(candidate.words), [" ".join(reference.words) for reference in references]
        )
        assert bleu(candidate, references) == pytest.approx(expected.score / 100, abs=1e-6)


def test_consistency_with_the_next_seeker_turn() -> None:
    after = "Since March. In the cafeteria I sit by the window."
    following = Response(after)
    asks = Response("Where do you sit in the cafeteria?")
    tells = Response("Rest a little.")
    original = Response("And where in the cafeteria do you sit?")
    assert consistency(asks, original, following) == 1.0 > consistency(tells, original, following)
    assert consistency(tells, original, None) == 1.0
