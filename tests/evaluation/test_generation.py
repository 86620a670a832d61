"""Generation: the prefix of training, batches that change nothing, ends that are found."""

from __future__ import annotations

import pytest
import torch
from evaluation.conftest import TEXTS, some_dialogues

from extes_train.dialogue.schema import Turn
from extes_train.errors import ConfigError
from extes_train.evaluation.config import EvaluationConfig
from extes_train.evaluation.generation import Generator, generate_responses, pick_contexts
from extes_train.tokens.template import load_template


@pytest.fixture
def make(learned):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    template = load_template(AutoTokenizer.from_pretrained(learned / "model"))
    model = AutoModelForCausalLM.from_pretrained(learned / "model")
    return lambda context_length=128, **config: Generator(model, template, context_length, EvaluationConfig(**config))


def greedy_by_hand(generator, turns):
    """The argmax of whole forward passes, token after token, without cache or padding."""
    ids = generator.prefix(turns).tolist()
    new = []
    while len(new) < generator.config.max_new_tokens:
        with torch.no_grad():
            new.append(int(generator.model(input_ids=torch.tensor([ids + new])).logits[0, -1].argmax()))
        if new[-1] in generator.stops:
            break
    return generator.template.tokenizer.decode(new, skip_special_tokens=True).strip()


def test_contexts_are_the_same_sample_in_any_order():
    dialogues = some_dialogues()
    everything = pick_contexts(dialogues, None)
    assert [context.reference for context in everything] == [text for texts in TEXTS for text in (texts[1], texts[3])]
    assert [turn.text for turn in everything[1].before] == list(TEXTS[0][:3])
    chosen = pick_contexts(dialogues, 3)
    assert len(chosen) == 3 and pick_contexts(dialogues, 99) == everything
    assert sorted(c.reference for c in pick_contexts(dialogues[::-1], 3)) == sorted(c.reference for c in chosen)
    opening = dialogues[0]
    opening.turns = opening.turns[1:]
    assert [context.turn for context in pick_contexts([opening], None)] == [2]


def test_a_model_that_learned_the_dialogues_recites_them(make):
    generator = make(max_new_tokens=24, batch_size=4)
    contexts = pick_contexts(some_dialogues(), None)
    answers = generate_responses(generator, contexts)
    assert [answer.text for answer in answers] == [context.reference for context in contexts]
    assert all(answer.finished for answer in answers)


def test_batches_and_cache_change_nothing(make):
    generator = make(max_new_tokens=12, batch_size=5)
    odd = [[Turn("seeker", text)] for text in ("my exams", "the dog and i", "a", "what", "you lost my job it feels so")]
    together = [answer.text for answer in generator.answer(odd)]
    assert together == [greedy_by_hand(generator, turns) for turns in odd]
    assert together == [generator.answer([turns])[0].text for turns in odd]


def test_the_prefix_is_the_trunk_before_the_response(make, learned):
    from extes_train.tokens.config import TokensConfig
    from extes_train.tokens.dataset import build_dataset

    generator = make()
    dataset = build_dataset(
        some_dialogues(), generator.template.tokenizer, TokensConfig(), context_length=128, cache=False
    )  # fmt: skip
    trunks = [w.trunk[: r.attach].tolist() for w in dataset.windows for r in w.responses]
    assert trunks == [generator.prefix(context.before).tolist() for context in pick_contexts(some_dialogues(), None)]


def test_sampling_follows_its_seed(make):
    generator = make(max_new_tokens=16, temperature=3.0, top_p=0.95)
    contexts = pick_contexts(some_dialogues(), None)
    state = torch.get_rng_state()
    first = generate_responses(generator, contexts)
    assert torch.equal(torch.get_rng_state(), state)
    assert generate_responses(generator, contexts) == first
    assert generate_responses(make(max_new_tokens=16, temperature=3.0, top_p=0.95, seed=1), contexts) != first


def test_long_contexts_lose_their_oldest_turns(make):
    turns = list(some_dialogues()[0].turns[:3])
    whole = make().prefix(turns)
    generator = make(context_length=len(whole) + 19, max_new_tokens=20)  # one token too few for all three turns
    assert generator.prefix(turns).tolist() == make().prefix(turns[1:]).tolist()
    assert len(generator.prefix([Turn("seeker", "word " * 300)])) == len(whole) - 1
    answer = generator.answer([turns])[0]
    assert answer.num_tokens <= 20 and answer.finished == (answer.num_tokens < 20)


def test_no_room_for_a_context(make):
    with pytest.raises(ConfigError, match=r"evaluation\.max_new_tokens=64: leaves no room"):
        make(context_length=64)


@pytest.mark.parametrize("last_only", [False, True])
def test_chat_templates_with_and_without_the_prefix_property(make, tmp_path, last_only):
    generator = make()
    said = "m.content if m.role == 'user' or loop.last else 'ok'" if last_only else "m.content"
    path = tmp_path / "template.jinja"
    path.write_text(
        "{% for m in messages %}{{ m.role + ':' }}{{ " + said + " }}{{ '</s>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    template = load_template(generator.template.tokenizer, str(path))
    assert bool(template.rewrites) is last_only
    talk = Generator(generator.model, template, 128, EvaluationConfig(max_new_tokens=4))
    assert talk.stops == {1}
    turns = [Turn("seeker", "a"), Turn("supporter", "b"), Turn("seeker", "c")]
    shown = template.tokenizer.decode(talk.prefix(turns))
    assert shown == f"user:a</s>assistant:{'ok' if last_only else 'b'}</s>user:c</s>assistant:"
    assert talk.answer([turns])[0].num_tokens <= 4
