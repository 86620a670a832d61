"""The dataset: spans make targets, the cache knows what matters, bad data is named."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokens.samples import TEXTS, dialogue, scored

from extes_train.dialogue.schema import Turn
from extes_train.errors import DataError, LayoutError
from extes_train.tokens.cache import cached_windows
from extes_train.tokens.config import TokensConfig
from extes_train.tokens.dataset import TokenDataset, build_dataset
from extes_train.tokens.encoder import Encoder
from extes_train.tokens.encoding import encode_prefix
from extes_train.tokens.show import render_sample
from extes_train.tokens.tree import ResponseWeights
from extes_train.tokens.windows import Response, Window


def build(dialogues: list, tokenizer: Any, tokens: TokensConfig | None = None, **kwargs: Any) -> TokenDataset:
    given = {"context_length": 512, "num_alternatives": None, "cache": False, **kwargs}
    return build_dataset(dialogues, tokenizer, tokens or TokensConfig(), **given)


@pytest.mark.parametrize("name", ["stories260K", "llama32k-tokenizer"])
def test_masks_are_the_spans_on_real_dialogues(name: str, esconv: dict, real_tokenizers: dict) -> None:
    """Read back from rows alone, the targets say the supporter's turns, each with its end, and nothing else."""
    tokenizer = real_tokenizers[name]
    dialogues = esconv["valid"][:60]
    dataset = build(dialogues, tokenizer, TokensConfig(tokens_per_row=4096), context_length=4096)
    said = []
    for row in dataset.rows(range(len(dataset))):
        for response in range(int(row.response_Q.max()) + 1):
            of_response = row.response_Q == response
            ids = row.ids_T[row.target_Q[of_response]]
            assert list(row.end_Q[of_response]) == [False] * (len(ids) - 1) + [True]
            assert ids[-1] == tokenizer.eos_token_id
            said.append(tokenizer.decode(ids[:-1]).strip())
    assert sorted(said) == sorted(t.text for d in dialogues for t in d.turns if t.speaker == "supporter")
    assert sum(row.num_targets for row in dataset.rows(range(len(dataset)))) == dataset.report["targets"]


def test_layouts_score_the_same_on_a_real_template(tokenizer: Any) -> None:
    several = [dialogue(alternatives=2), dialogue(*TEXTS[:4], alternatives=3)]
    weights = ResponseWeights("response", "mean", 0.5)
    sums = []
    for layout, flat in (("tree", "multi_turn"), ("flat", "multi_turn"), ("flat", "per_response")):
        dataset = build(several, tokenizer, TokensConfig(layout=layout, flat=flat), weights=weights)
        total = sum((scored(row) for row in dataset.rows([0, 1])), start=type(scored(dataset.rows([0])[0]))())
        sums.append(total)
    assert sums[0] == sums[1] == sums[2]


def test_all_targets_for_pretraining(tokenizer: Any) -> None:
    dataset = build([dialogue()], tokenizer, TokensConfig(targets="all"))
    (row,) = dataset.rows([0])
    text = tokenizer.decode(row.ids_T[row.target_Q])
    assert text == "".join(said + ("\n" if i % 2 == 0 else "</s>") for i, said in enumerate(TEXTS))
    assert tokenizer.decode(row.ids_T[row.target_Q[row.end_Q]]) == "\n</s>" * 3
    monologue = dialogue("I talk.")
    assert build([monologue], tokenizer, TokensConfig(targets="all")).report["targets"] > 3


def test_910_dialogues_take_less_than_three_seconds(esconv: dict, real_tokenizers: dict, tmp_path: Path) -> None:
    for tokenizer, context in ((real_tokenizers["stories260K"], 512), (real_tokenizers["llama32k-tokenizer"], 2048)):
        tokens = TokensConfig(cache_dir=str(tmp_path))
        spent = []
        for expected in (False, True):
            start = time.process_time()
            dataset = build(esconv["train"], tokenizer, tokens, context_length=context, cache=True)
            spent.append(time.process_time() - start)
            assert dataset.from_cache == expected
        assert len(esconv["train"]) == 910 and spent[0] < 3.0 and spent[1] < 0.5 * spent[0], spent


def test_the_cache_gives_back_what_was_built(tokenizer: Any, tmp_path: Path) -> None:
    several = [dialogue(alternatives=2), dialogue(*TEXTS[:4])]
    tokens = TokensConfig(cache_dir=str(tmp_path), too_long="truncate_response", min_left_context=10)
    first = build(several, tokenizer, tokens, context_length=60, cache=True)
    again = build(several, tokenizer, tokens, context_length=60, cache=True)
    assert (first.from_cache, again.from_cache) == (False, True)
    assert first.report == again.report and len(first) == len(again) > 2
    for a, b in zip(first.windows, again.windows):
        assert np.array_equal(a.trunk, b.trunk) and (a.dialogue, a.first_turn) == (b.dialogue, b.first_turn)
        assert [(r.turn, r.alternative, r.attach, r.ids.tolist(), r.num_end, r.num_bytes) for r in a.responses] == [
            (r.turn, r.alternative, r.attach, r.ids.tolist(), r.num_end, r.num_bytes) for r in b.responses
        ]
    for file in tmp_path.glob("*.npz"):
        file.write_bytes(file.read_bytes()[:100])
    assert not build(several, tokenizer, tokens, context_length=60, cache=True).from_cache
    assert build(several, tokenizer, tokens, context_length=60, cache=True).from_cache


def test_one_process_builds_and_the_others_wait(tmp_path: Path) -> None:
    built = []

    def slow() -> tuple[list[Window], dict[str, Any]]:
        built.append(1)
        time.sleep(0.2)
        ids = np.arange(5, dtype=np.int32)
        return [Window(0, 0, 2, ids, [Response(1, -1, 2, ids[2:], 1, 4)])], {"dialogues": 1}

    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: cached_windows(tmp_path / "new", "key", slow), range(3)))
    assert len(built) == 1 and sorted(found for _, found in results) == [False, True, True]
    assert {windows[0].responses[0].ids.tolist()[0] for (windows, _), _ in results} == {2}
    (tmp_path / "file").write_text("not a directory")
    assert cached_windows(tmp_path / "file", "key", slow)[1] is False


def test_the_key_covers_what_changes_windows(tokenizer: Any) -> None:
    several = [dialogue(alternatives=2)]
    base, keys = TokensConfig(), set()
    for tokens in (base, *(replace(base, **change) for change in (
        {"min_left_context": 3}, {"too_long": "error"}, {"targets": "all"}, {"opening": "placeholder"},
        {"system": "Be kind."}, {"tokens_per_row": 100},
    ))):  # fmt: skip
        keys.add(build(several, tokenizer, tokens).key)
    keys.add(build(several, tokenizer, num_alternatives=1).key)
    keys.add(build([dialogue(alternatives=1, first="supporter")], tokenizer).key)
    assert len(keys) == 9
    same = replace(base, layout="flat", flat="per_response")
    assert build(several, tokenizer, same, weights=ResponseWeights("response")).key == build(several, tokenizer).key


def test_bad_data_is_named(tokenizer: Any) -> None:
    silent = dialogue("Is anybody there?")
    with pytest.raises(DataError, match=rf"train: 1 dialogue\(s\) without a supporter turn: {silent.id}"):
        build([dialogue(), silent], tokenizer, name="train")
    with pytest.raises(DataError, match="valid: no dialogues"):
        build([], tokenizer, name="valid")


def test_a_dialogue_that_the_template_refuses_is_named(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "strict.jinja"
    path.write_text(
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('take turns') }}{% endif %}"
        "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    )
    twice = dialogue()
    twice.turns[2] = Turn("supporter", "And another thing.")
    with pytest.raises(LayoutError, match=rf"dialogue {twice.id}: .*strict\.jinja refuses .* take turns"):
        build([dialogue(*TEXTS[:4]), twice], tokenizer, chat_template=str(path))
    opened = dialogue(*TEXTS[:4], first="supporter")
    with pytest.raises(LayoutError, match=rf"dialogue {opened.id}: .*tokens\.opening=placeholder"):
        build([opened], tokenizer, chat_template=str(path))
    left_out = build([opened], tokenizer, TokensConfig(opening="drop_target"), chat_template=str(path))
    assert left_out.report["openings_left_out"] == [f"{opened.id}:0"]
    assert [response.turn for response in left_out.windows[0].responses] == [2]


def test_openings_are_counted(tokenizer: Any) -> None:
    opened = dialogue(*TEXTS[:4], first="supporter")
    kept = build([opened], tokenizer)
    silent = build([opened], tokenizer, TokensConfig(opening="drop_target"))
    placed = build([opened], tokenizer, TokensConfig(opening="placeholder"))
    assert [[r.turn for r in d.windows[0].responses] for d in (kept, silent, placed)] == [[0, 2], [2], [0, 2]]
    assert silent.report["openings_without_loss"] == [f"{opened.id}:0"]
    assert placed.report["placeholders"] == [opened.id]
    prefix = encode_prefix(placed.template, Encoder(tokenizer), opened.turns[:2])
    assert np.array_equal(placed.windows[0].trunk[: placed.windows[0].responses[1].attach], prefix)


def test_a_rewriting_template_takes_single_responses_only(tokenizer: Any, tmp_path: Path) -> None:
    """Each response is then rendered by itself: what came before it looks as it does at inference."""
    text = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'user' or loop.last %}"
        "{{ m.content }}{% else %}{{ '(said) ' + m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    path = tmp_path / "rewriting.jinja"
    path.write_text(text)
    several = [dialogue(alternatives=1)]
    with pytest.raises(LayoutError, match=r"rewriting\.jinja.*tokens\.flat=per_response"):
        build(several, tokenizer, chat_template=str(path))
    tokens = TokensConfig(layout="flat", flat="per_response")
    dataset = build(several, tokenizer, tokens, chat_template=str(path))
    assert len(dataset) == 3 and dataset.report["alternatives"] == 3
    sample = dataset.trees(2)[1]
    shown = tokenizer.decode(sample.ids_T)
    expected = tokenizer.apply_chat_template(
        [{"role": ("user", "assistant")[i % 2], "content": said} for i, said in enumerate(TEXTS[:5])],
        chat_template=text, tokenize=False, add_generation_prompt=True,
    )  # fmt: skip
    assert shown == f"{expected}Another way, 0: {TEXTS[5]}<|im_end|>"
    prefix = encode_prefix(dataset.template, Encoder(tokenizer), several[0].turns[:5])
    assert np.array_equal(dataset.windows[2].trunk[: len(prefix)], prefix)
    assert dataset.windows[2].responses[1].attach == len(prefix)
    short = build(several, tokenizer, tokens, chat_template=str(path), context_length=90)
    assert short.windows[-1].first_turn > 0 and len(short.trees(2)[0]) <= 90


def test_the_sample_shows_targets_and_branches(tokenizer: Any) -> None:
    dataset = build([dialogue(*TEXTS[:4], alternatives=1)], tokenizer)
    plain = render_sample(dataset, 0, color=False)
    assert f"<s>Seeker:{TEXTS[0]}\nSupporter:⟦{TEXTS[1]}│</s>⟧" in plain
    assert f"  └─ turn 1, alternative 0: ⟦Another way, 0: {TEXTS[1]}│</s>⟧" in plain
    assert "\x1b" not in plain and "2 responses and 2 alternatives" in plain
    assert f"\x1b[32m{TEXTS[3]}\x1b[0m\x1b[1;33m</s>\x1b[0m" in render_sample(dataset, 0, color=True)


def test_turns_with_whitespace_or_nothing_are_read(tokenizer: Any) -> None:
    odd = dialogue("Hi", "  spaced \n", "", "Fine")
    odd.turns[2] = Turn("seeker", "   ")
    dataset = build([odd], tokenizer)
    assert tokenizer.decode(dataset.windows[0].trunk) == "<s>Seeker:Hi\nSupporter:spaced</s>Seeker:\nSupporter:Fine</s>"
