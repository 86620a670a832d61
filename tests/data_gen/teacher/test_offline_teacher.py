"""What the composing teacher promises: deterministic, conditioned, varied, and frank about what it is."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
import time
from collections import Counter, defaultdict
from typing import Any

import pytest

from data_gen.config import FiltersConfig
from data_gen.filters.chain import Rejection, check_dialogue_text, read_reply
from data_gen.filters.text import TextView
from data_gen.prompting import Prompts, load_prompts, make_exemplar
from data_gen.teacher.offline.bank import kin_of, load_bank
from data_gen.teacher.offline.teacher import ABOUT, reply
from data_gen.teacher.offline.text import Template, clauses, content_words, told_about, told_back
from data_gen.teacher.structured import mend_messages
from extes_train.dialogue.schema import Dialogue, Turn
from extes_train.dialogue.taxonomy import load_taxonomy

HINT = "a teacher of 36; something said yesterday; dry humour; small steps"


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return load_prompts(None, load_taxonomy("extes"))


@pytest.fixture(scope="module")
def many(prompts: Prompts) -> list[tuple[str, dict[str, Any]]]:
    """720 dialogues, 20 a scenario, with 30 % of the prompts asking for resistance."""
    rng, names, result = random.Random(0), list(prompts.taxonomy.strategies), []
    load_bank()
    for index in range(20):
        for scenario in prompts.taxonomy.scenarios:
            messages = prompts.expansion(scenario, HINT, rng.sample(names, 4), rng.random() < 0.3, 16, [])
            result.append((scenario, json.loads(reply(messages, index))))
    return result


def shingles(dialogue: dict[str, Any]) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for turn in dialogue["turns"]:
        words = re.findall(r"\w+", turn["text"].lower())
        found.update(zip(words, words[1:], words[2:]))
    return found


def supporter_turns(dialogue: dict[str, Any]) -> list[dict[str, Any]]:
    return [turn for turn in dialogue["turns"] if turn["speaker"] == "supporter"]


def test_every_scenario_has_a_bank_and_every_strategy_phrases(prompts: Prompts) -> None:
    bank = load_bank()
    assert set(bank.themes) == set(prompts.taxonomy.scenarios)
    for theme in bank.themes.values():
        assert len(theme.events) >= 7 and len(theme.details) >= 10 and len(theme.steps) >= 6 and len(theme.facts) >= 4
    for name in prompts.taxonomy.strategies:
        assert len(bank.supporter[name]) >= 14
    assert kin_of("restatement-or-paraphrasing") == "reflective-statements"
    assert kin_of("question") == "clarification" and kin_of("self-disclosure") == "self-disclosure"
    assert kin_of("use-analogy", "Liken the idea to something known.") == "generic"


def test_the_same_prompt_and_seed_give_the_same_reply(prompts: Prompts) -> None:
    def ask(hint: str = HINT, strategies: tuple[str, ...] = ("offer-hope",)) -> list[dict[str, str]]:
        return prompts.expansion("anxiety-and-panic", hint, strategies, False, 16, [])

    first = reply(ask(), 1)
    assert first == reply(ask(), 1)
    assert len({first, reply(ask(), 2), reply(ask("a nurse"), 1), reply(ask(strategies=("others",)), 1)}) == 4
    assert reply(mend_messages(ask(), "{broken"), 1) == first


def test_dialogues_follow_what_was_asked(prompts: Prompts) -> None:
    wanted = ["stress-management", "others", "share-information", "clarification"]
    messages = prompts.expansion("career-transitions", HINT, wanted, True, 16, [])
    for seed in range(20):
        value = json.loads(reply(messages, seed))
        used = {turn["strategy"] for turn in supporter_turns(value)}
        assert set(wanted) <= used <= set(prompts.taxonomy.strategies)
        assert 14 <= len(value["turns"]) <= 18
        assert [turn["speaker"] for turn in value["turns"]] == (["seeker", "supporter"] * 9)[: len(value["turns"])]
        assert "36" in value["situation"]
    small = prompts.expansion("career-transitions", "short messages, all lower case", wanted, False, 6, [])
    value = json.loads(reply(small, 0))
    assert len(value["turns"]) == 6 and value["turns"][0]["text"].islower()


def test_every_dialogue_passes_the_filters(prompts: Prompts, many: list[tuple[str, dict[str, Any]]]) -> None:
    for scenario, value in many:
        dialogue = read_reply(value, scenario, prompts.taxonomy)
        assert not isinstance(dialogue, Rejection), dialogue
        refused = check_dialogue_text(dialogue, TextView([turn.text for turn in dialogue.turns]), FiltersConfig())
        assert refused is None, (refused, scenario)


def test_no_two_dialogues_are_near_duplicates(many: list[tuple[str, dict[str, Any]]]) -> None:
    sets = [shingles(value) for _, value in many]
    index: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    highest = 0.0
    for number, own in enumerate(sets):
        shared: Counter[int] = Counter()
        for shingle in own:
            shared.update(index[shingle])
            index[shingle].append(number)
        for other, common in shared.most_common(3):
            highest = max(highest, common / (len(own) + len(sets[other]) - common))
    assert highest < 0.3, highest
    assert len({value["situation"] for _, value in many}) == len(many)


def test_strategies_resistance_and_repetition(many: list[tuple[str, dict[str, Any]]]) -> None:
    counts: Counter[str] = Counter()
    repeated = following = resisting = 0
    for _, value in many:
        own = [turn["strategy"] for turn in supporter_turns(value)]
        counts.update(own)
        repeated += sum(one == other for one, other in itertools.pairwise(own))
        following += len(own) - 1
        resisting += any("resistance" in turn.get("tags", ()) for turn in value["turns"])
    total = counts.total()
    entropy = -sum(count / total * math.log2(count / total) for count in counts.values())
    assert entropy >= 3.9
    assert repeated / following <= 0.1
    assert 0.2 <= resisting / len(many) <= 0.32


def test_responses_belong_to_their_context(many: list[tuple[str, dict[str, Any]]]) -> None:
    """Shared content words with the seeker's last turn: far more than with another dialogue's of the same scenario."""
    matched = shuffled = turns = 0
    for number, (_, value) in enumerate(many):
        other = many[(number + 36 * 7) % len(many)][1]
        for position, turn in enumerate(value["turns"]):
            if turn["speaker"] == "supporter" and position < len(other["turns"]):
                words = set(content_words(turn["text"]))
                matched += len(words & set(content_words(value["turns"][position - 1]["text"])))
                shuffled += len(words & set(content_words(other["turns"][position - 1]["text"])))
                turns += 1
    assert matched / turns > 2.5, matched / turns
    assert matched > 8 * shuffled, (matched / turns, shuffled / turns)


def test_it_is_fast_enough(prompts: Prompts) -> None:
    names = list(prompts.taxonomy.strategies)
    messages = prompts.expansion("caregiver-support", HINT, names[:4], False, 16, [])
    started = time.process_time()
    for seed in range(100):
        reply(messages, seed)
    assert 100 / (time.process_time() - started) > 300


def history() -> Dialogue:
    texts = [
        "My brother left the table in the middle of dinner. I am so angry.",
        "What happened before that?",
        "He read my old letter aloud to everybody, and my wife laughed.",
        "I see.",
        "Now he wants 4000 euros from me in Zagreb.",
        "Go on.",
    ]
    turns = [Turn("supporter" if i % 2 else "seeker", text) for i, text in enumerate(texts)]
    for turn, strategy in zip(turns[1::2], ("clarification", "others", "offer-hope")):
        turn.strategy = strategy
    return Dialogue("x", "sibling-rivalry-or-family-conflict", "-", turns)


def test_alternatives_use_the_left_context_only(prompts: Prompts) -> None:
    messages = prompts.inpaint_turn(history(), 3, 6, "varied", True, True)
    for seed in range(10):
        found = json.loads(reply(messages, seed))["alternatives"]
        texts = [item["text"] for item in found]
        assert len(found) == 6 == len(set(texts)) and len({item["strategy"] for item in found}) == 6
        assert all(0 < item["probability"] < 1 for item in found)
        assert sum(bool({"letter", "wife", "aloud", "laughed"} & set(content_words(text))) for text in texts) >= 3
        assert not any("4000" in text or "Zagreb" in text or "friend" in text.split() for text in texts)
    held = json.loads(reply(prompts.inpaint_turn(history(), 3, 4, "held offer-hope", False, False), 0))
    assert [item["strategy"] for item in held["alternatives"]] == ["offer-hope"] * 4
    assert "probability" not in held["alternatives"][0]


def test_alternatives_for_a_whole_dialogue(prompts: Prompts) -> None:
    messages = prompts.inpaint_dialogue(history(), [1, 5], 3, "varied", False)
    value = json.loads(reply(messages, 0))
    assert [item["turn"] for item in value["turns"]] == [1, 5]
    assert all(len({other["text"] for other in item["alternatives"]}) == 3 for item in value["turns"])
    early = " ".join(item["text"] for item in value["turns"][0]["alternatives"])
    assert "letter" not in early and "Zagreb" not in early


def test_another_domain(tmp_path: Any) -> None:
    path = tmp_path / "tutoring.yaml"
    path.write_text(
        "name: tutoring\nscenarios:\n- title: Fractions\n  definition: The learner mixes up numerators.\nstrategies:\n"
        "- title: Ask Back\n  definition: Put a question.\n- title: Use Analogy\n  definition: Liken it.\n"
        "- title: Praise Effort\n  definition: Praise what was tried.\n"
    )
    taxonomy = load_taxonomy(str(path))
    prompts = load_prompts(None, taxonomy)
    values = [json.loads(reply(prompts.expansion("fractions", HINT, [], False, 12, []), seed)) for seed in range(20)]
    for value in values:
        assert {turn["strategy"] for turn in supporter_turns(value)} == set(taxonomy.strategies)
        assert "fractions" in json.dumps(value)
        assert not isinstance(read_reply(value, "fractions", taxonomy), Rejection)
    assert len({value["turns"][0]["text"] for value in values}) > 15


def test_exemplars_change_the_reply(prompts: Prompts) -> None:
    turns = [Turn("seeker", "hm ok."), Turn("supporter", "Yes.", "others")] * 5
    shown = make_exemplar(Dialogue("x", "anxiety-and-panic", "Aiko, Amara and Clara.", turns))
    messages = prompts.expansion("anxiety-and-panic", HINT, [], False, 16, [shown])
    quiet = [json.loads(reply(messages, seed)) for seed in range(40)]
    loud = [json.loads(reply(prompts.expansion("anxiety-and-panic", HINT, [], False, 16, []), s)) for s in range(40)]
    assert all(value["turns"][0]["text"].islower() for value in quiet)

    def length(values: list[dict[str, Any]]) -> float:
        texts = [turn["text"].split() for value in values for turn in supporter_turns(value)]
        return sum(map(len, texts)) / len(texts)

    assert length(quiet) < length(loud) - 0.5


def test_it_says_what_it_is() -> None:
    assert reply([{"role": "user", "content": "Are you a language model?"}]) == ABOUT
    assert ABOUT.startswith("I am no language model")


def test_text_tools() -> None:
    assert told_back("I was told that my sister sold our house and I'm sad") == (
        "you were told that your sister sold your house and you're sad"
    )
    assert told_about("I hid my letters from us") == "they hid their letters from them"
    assert clauses("Well. I left! My Aunt Mia called?") == ["well", "I left", "my Aunt Mia called"]
    template = Template("[a|b [c|d]] {x}. yes #time")
    texts = {template.fill({"x": "{}"}, random.Random(seed)) for seed in range(40)}
    assert texts == {"A {}. Yes", "B c {}. Yes", "B d {}. Yes"} and template.tag == "time"
