"""Perplexity against an independent forward pass of each response."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from evaluation.conftest import some_dialogues

from extes_train.dialogue.schema import Alternative, Turn, make_dialogue
from extes_train.evaluation.perplexity import score_responses, token_list_digest
from extes_train.tokens.config import TokensConfig
from extes_train.tokens.dataset import build_dataset


@pytest.fixture(scope="module")
def parts(learned):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(learned / "model")
    return AutoModelForCausalLM.from_pretrained(learned / "model"), tokenizer


def dataset_of(dialogues, tokenizer, context_length=128, **tokens):
    config = TokensConfig(**{"tokens_per_row": 128, "too_long": "truncate_response", **tokens})
    return build_dataset(
        dialogues, tokenizer, config, context_length=context_length, num_alternatives=None, cache=False
    )


def plain_nll(model, window, response):
    """NLL of each token of a response after its context, by a forward pass of its own."""
    ids = np.concatenate([window.trunk[: response.attach], response.ids])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(ids[None], dtype=torch.int64)).logits[0].double()
    nll = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:], dtype=torch.int64), reduction="none")
    return nll[response.attach - 1 :]


def with_alternatives():
    dialogues = some_dialogues()
    for dialogue in dialogues:
        dialogue.turns[1].alternatives = [Alternative("something else"), Alternative("hm")]
    return dialogues


@pytest.mark.parametrize("context_length", [128, 40])
def test_equals_the_definition(parts, context_length):
    model, tokenizer = parts
    dataset = dataset_of(with_alternatives(), tokenizer, context_length, min_left_context=8)
    scores = score_responses(model, dataset)
    total, content, count, size, seen = 0.0, 0.0, 0, 0, set()
    for window in dataset.windows:
        for response in window.responses:
            if response.alternative >= 0:
                continue
            nll = plain_nll(model, window, response)
            total, count = total + float(nll.sum()), count + len(nll)
            seen.add((window.dialogue, response.turn))
            if response.num_end:
                content += float(nll[: -response.num_end].sum())
                size += response.num_bytes
    assert len(seen) == scores.responses == 6
    assert scores.count == count
    assert scores.perplexity == pytest.approx(math.exp(total / count), rel=1e-5)
    assert scores.nll_per_byte == pytest.approx(content / size, rel=1e-5)
    texts = [turn.text for dialogue in some_dialogues() for turn in dialogue.turns if turn.speaker == "supporter"]
    assert scores.bytes == sum(len(text.encode()) for text in texts)


def test_the_model_that_knows_the_dialogues_scores_better(parts, learned):
    from transformers import AutoModelForCausalLM

    model, tokenizer = parts
    dataset = dataset_of(some_dialogues(), tokenizer)
    base = AutoModelForCausalLM.from_pretrained(learned / "base")
    assert score_responses(model, dataset).perplexity < 2 < 100 < score_responses(base, dataset).perplexity


def test_truncated_responses_count_for_perplexity_only(parts):
    model, tokenizer = parts
    long = make_dialogue("", "", [Turn("seeker", "hm"), Turn("supporter", "one step at a time " * 12)])
    dataset = dataset_of([*some_dialogues(), long], tokenizer, context_length=40, min_left_context=0)
    scores, without = score_responses(model, dataset), score_responses(model, dataset_of(
        some_dialogues(), tokenizer, context_length=40, min_left_context=0))  # fmt: skip
    assert (scores.truncated, without.truncated) == (1, 0)
    assert scores.count > without.count and scores.bytes == without.bytes
    assert scores.nll_per_byte == pytest.approx(without.nll_per_byte)


def test_alternatives_and_packing_change_nothing(parts):
    model, tokenizer = parts
    plain = score_responses(model, dataset_of(some_dialogues(), tokenizer))
    for other in (
        score_responses(model, dataset_of(with_alternatives(), tokenizer)),
        score_responses(model, dataset_of(some_dialogues(), tokenizer, tokens_per_row=512)),
        score_responses(model, dataset_of(some_dialogues(), tokenizer, layout="flat")),
    ):
        assert other.digest == plain.digest
        assert other.nll == pytest.approx(plain.nll, rel=1e-5)


def test_the_digest_names_the_token_list(parts):
    _, tokenizer = parts
    whole = dataset_of(some_dialogues(), tokenizer)
    digests = [
        token_list_digest(whole.windows),
        token_list_digest(whole.windows[::-1]),
        token_list_digest(whole.windows[:2]),
        token_list_digest(dataset_of(some_dialogues(), tokenizer, 40, min_left_context=8).windows),
        token_list_digest(dataset_of(some_dialogues(), tokenizer, system="be kind").windows),
    ]
    assert len(set(digests)) == 5


class Part:
    """Rank `rank` of several that do not run together: what it would tell the others is noted."""

    def __init__(self, rank, world_size, others=()):
        self.rank, self.world_size, self.others, self.noted = rank, world_size, others, None

    def gather(self, value):
        self.noted = value
        return [value, *self.others]


@pytest.mark.parametrize("world_size", [2, 9])  # with nine, some ranks have nothing to compute
def test_ranks_share_the_rows_and_change_no_digit(parts, world_size):
    model, tokenizer = parts
    dataset = dataset_of(some_dialogues(), tokenizer, tokens_per_row=48, context_length=48, min_left_context=8)
    whole, told = score_responses(model, dataset), []
    others = []
    for rank in range(1, world_size):
        part = Part(rank, world_size)
        with pytest.raises(KeyError):  # the others' responses are missing
            score_responses(model, dataset, part)
        others.append(part.noted)
    shared = score_responses(model, dataset, Part(0, world_size, others), advance=told.append)
    assert shared == whole and sum(told) == whole.responses == 6
    assert any(others) and (world_size == 2 or not all(others))


def test_dialogues_sum_up_to_the_whole(parts):
    model, tokenizer = parts
    dialogues = some_dialogues()
    scores = score_responses(model, dataset_of(dialogues, tokenizer, 40, min_left_context=8))
    assert math.fsum(one.nll for one in scores.by_dialogue) == pytest.approx(scores.nll, rel=1e-12)
    assert sum(one.targets for one in scores.by_dialogue) == scores.count
    alone = score_responses(model, dataset_of(dialogues[1:2], tokenizer, 40, min_left_context=8))
    assert scores.by_dialogue[1].nll == pytest.approx(alone.nll, rel=1e-5)


def test_nothing_to_score(parts):
    model, tokenizer = parts
    dataset = dataset_of(some_dialogues(), tokenizer)
    dataset.windows = []
    with pytest.raises(ValueError, match="no original response"):
        score_responses(model, dataset)
