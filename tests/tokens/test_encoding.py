"""What training reads is what inference reads, on real dialogues and on templates of many habits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokens.samples import TEXTS, dialogue

from extes_train.dialogue.schema import Turn
from extes_train.errors import ConfigError, LayoutError, ModelError
from extes_train.tokens.encoder import Encoder
from extes_train.tokens.encoding import encode_dialogue, encode_prefix
from extes_train.tokens.template import ROLES, Template, load_template

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles') }}"
    "{% endif %}{% if m.role == 'user' %}{{ '<s>[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + ' </s>' }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{{ m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + '[/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
VICUNA = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + m.content + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
DATED = "{{ 'Today is ' + strftime_now('%d %b %Y') + date_string + '\n' }}" + CHATML
LAST_ONLY = "{% for m in messages %}{{ m.content if loop.last else m.content[:3] }}{{ '</s>' }}{% endfor %}"
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' and loop.last %}"
    "{{ '(thinks) ' }}{% endif %}{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_END = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"


def template_of(tokenizer: Any, text: str | None, path: Path, **kwargs: Any) -> Template:
    if text is None:
        return load_template(tokenizer, "plain", **kwargs)
    (path / "template.jinja").write_text(text)
    return load_template(tokenizer, str(path / "template.jinja"), **kwargs)


def check_prefixes(template: Template, encoder: Encoder, turns: list[Turn]) -> int:
    encoded = encode_dialogue(template, encoder, turns)
    checked = 0
    for i, place in enumerate(encoded.turns):
        if place.speaker == "supporter":
            prefix = encode_prefix(template, encoder, turns[:i])
            assert np.array_equal(encoded.ids[: place.attach], prefix), f"turn {i}"
            checked += 1
    return checked


@pytest.mark.parametrize("name", ["stories260K", "llama32k-tokenizer"])
def test_prefixes_of_every_real_supporter_turn(name: str, esconv: dict, real_tokenizers: dict) -> None:
    template = load_template(real_tokenizers[name])
    encoder = Encoder(real_tokenizers[name])
    dialogues = esconv["train"] + esconv["valid"]
    checked = sum(check_prefixes(template, encoder, d.turns) for d in dialogues)
    assert checked == sum(turn.speaker == "supporter" for d in dialogues for turn in d.turns) > 12_000
    assert template.plain == (name == "stories260K")


def test_prefixes_are_what_transformers_tokenises(esconv: dict, real_tokenizers: dict) -> None:
    """The header that the template does not give is found; the rest is the rendered string as a whole."""
    tokenizer = real_tokenizers["llama32k-tokenizer"]
    template, encoder = load_template(tokenizer), Encoder(tokenizer)
    for d in esconv["valid"][:40]:
        messages = [
            {"role": {"seeker": "user", "supporter": "assistant"}[t.speaker], "content": t.text} for t in d.turns
        ]
        last = max(i for i, turn in enumerate(d.turns) if turn.speaker == "supporter")
        rendered = tokenizer.apply_chat_template(
            [*messages[:last], {"role": "assistant", "content": "@@"}], tokenize=False
        )
        expected = tokenizer(rendered[: rendered.index("@@")], add_special_tokens=False).input_ids
        assert encode_prefix(template, encoder, d.turns[:last]).tolist() == expected
    assert encoder.merged == 0


@pytest.mark.parametrize(
    "text",
    [None, CHATML, LLAMA2, LLAMA3, GEMMA, MISTRAL, VICUNA, DATED],
    ids=["plain", "chatml", "llama2", "llama3", "gemma", "mistral", "vicuna", "dated"],
)
def test_prefixes_in_other_templates(text: str | None, tokenizer: Any, tmp_path: Path) -> None:
    system = "You are kind." if text in (None, CHATML, LLAMA3, DATED) else None
    template = template_of(tokenizer, text, tmp_path, system=system)
    encoder = Encoder(tokenizer)
    turns = dialogue(alternatives=2).turns
    assert check_prefixes(template, encoder, turns) == 3
    encoded = encode_dialogue(template, encoder, turns)
    for turn, place in zip(turns, encoded.turns):
        if turn.speaker == "supporter":
            ids = encoded.ids[place.attach : place.stop]
            end = tokenizer.decode(ids[len(ids) - place.num_end :])
            assert tokenizer.decode(ids).strip() == turn.text + (" </s>" if text == LLAMA2 else end)
            for other, (other_ids, num_end, num_bytes) in zip(turn.alternatives, place.alternatives):
                content = tokenizer.decode(other_ids[: len(other_ids) - num_end]).strip()
                assert (content, num_bytes) == (other.text, len(other.text))


@pytest.mark.parametrize("text", [CHATML, LLAMA2, LLAMA3, GEMMA, MISTRAL, VICUNA])
def test_a_trunk_is_the_rendered_string(text: str, tokenizer: Any, tmp_path: Path) -> None:
    """Decoded, and as ids wherever no boundary merged: transformers' own rendering of the same dialogue."""
    template, encoder = template_of(tokenizer, text, tmp_path), Encoder(tokenizer)
    turns = dialogue().turns
    encoded = encode_dialogue(template, encoder, turns)
    messages = [{"role": ROLES[turn.speaker], "content": turn.text} for turn in turns]
    rendered = tokenizer.apply_chat_template(messages, chat_template=text, tokenize=False)
    shown = tokenizer.decode(encoded.ids)
    assert rendered.startswith(shown) and not rendered[len(shown) :].strip()
    expected = tokenizer(rendered, add_special_tokens=False).input_ids[: len(encoded.ids)]
    assert encoder.merged or encoded.ids.tolist() == expected


def test_llama2_space_belongs_to_the_response(tokenizer: Any, tmp_path: Path) -> None:
    template = template_of(tokenizer, LLAMA2, tmp_path)
    prefix = encode_prefix(template, Encoder(tokenizer), dialogue("Hi").turns)
    assert tokenizer.decode(prefix) == "<s>[INST] Hi [/INST]"


def test_the_date_is_fixed(tokenizer: Any, tmp_path: Path) -> None:
    template = template_of(tokenizer, DATED, tmp_path)
    assert tokenizer.decode(encode_prefix(template, Encoder(tokenizer), dialogue("Hi").turns)) == (
        "Today is 26 Jul 202426 Jul 2024\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(max_size=12), min_size=2, max_size=6), st.sampled_from(["", "</s>", "<|im_end|>", "\n"]))
def test_prefixes_of_any_text(tmp_path_factory: Any, tokenizer: Any, texts: list[str], extra: str) -> None:
    for text in (CHATML, LLAMA2, None):
        template = template_of(tokenizer, text, tmp_path_factory.getbasetemp())
        turns = dialogue(*(text + extra for text in texts)).turns
        encoder = Encoder(tokenizer)
        check_prefixes(template, encoder, turns)
        encoded = encode_dialogue(template, encoder, turns)
        specials = {tokenizer.convert_tokens_to_ids("</s>"), tokenizer.convert_tokens_to_ids("<|im_end|>")}
        for turn, place in zip(turns, encoded.turns):
            if turn.speaker == "supporter":
                assert not specials & set(encoded.ids[place.attach : place.stop - 1].tolist())


@pytest.mark.parametrize("name", ["stories260K", "llama32k-tokenizer"])
def test_special_strings_are_text(name: str, real_tokenizers: dict) -> None:
    tokenizer = real_tokenizers[name]
    said = f"I typed {tokenizer.eos_token} by mistake"
    template, encoder = load_template(tokenizer), Encoder(tokenizer)
    turns = dialogue("Hello", said).turns
    check_prefixes(template, encoder, [*turns, *turns])
    encoded = encode_dialogue(template, encoder, turns)
    ids = encoded.ids[encoded.turns[1].attach :].tolist()
    assert ids.count(tokenizer.eos_token_id) == 1 and ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[:-1]).strip() == said


def test_a_boundary_that_merges_leaves_the_prefix_alone(tokenizer: Any, tmp_path: Path) -> None:
    text = "{% for m in messages %}{{ 'Say th' + m.content + '</s>' }}{% endfor %}"
    template = template_of(tokenizer, text, tmp_path)
    encoder = Encoder(tokenizer)
    turns = dialogue("is", "at is fine").turns
    encoded = encode_dialogue(template, encoder, turns)
    assert check_prefixes(template, encoder, turns) == 1
    assert encoder.merged > 0
    assert tokenizer.decode(encoded.ids) == "Say this</s>Say that is fine</s>"


def test_templates_without_prefix_property_are_named(tokenizer: Any, tmp_path: Path) -> None:
    for text in (LAST_ONLY, THINKING):
        template = template_of(tokenizer, text, tmp_path)
        assert template.rewrites
        with pytest.raises(LayoutError, match=r"template\.jinja"):
            template.skeleton(["seeker", "supporter"])


def test_what_cannot_be_learnt_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no special token"):
        template_of(tokenizer, NO_END, tmp_path)
    with pytest.raises(ConfigError, match=r"model\.chat_template='nowhere\.jinja'"):
        load_template(tokenizer, "nowhere.jinja")
    with pytest.raises(LayoutError, match="system prompt"):
        template_of(tokenizer, LLAMA2.replace("m.content", "m.content"), tmp_path, system="Be kind.")
    other = tokenizer.__class__(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ModelError, match="no eos token"):
        load_template(other, "plain")


@pytest.mark.parametrize("opening", ["as_is", "placeholder", "drop_target"])
def test_a_supporter_who_speaks_first(opening: str, tokenizer: Any, tmp_path: Path) -> None:
    turns = dialogue(*TEXTS[:4], first="supporter").turns
    strict = template_of(tokenizer, LLAMA2, tmp_path, opening=opening)
    assert strict.seeker_first
    if opening == "as_is":
        with pytest.raises(LayoutError, match=r"tokens\.opening=placeholder"):
            encode_dialogue(strict, Encoder(tokenizer), turns)
    else:
        encoded = encode_dialogue(strict, Encoder(tokenizer), turns)
        assert encoded.turns[0].speaker == "seeker"
        shown = tokenizer.decode(encoded.ids)
        assert ("[INST] Hello. [/INST]" in shown) == (opening == "placeholder")
        assert (TEXTS[0] in shown) == (opening == "placeholder")
    plain = template_of(tokenizer, None, tmp_path, opening=opening)
    shown = tokenizer.decode(encode_dialogue(plain, Encoder(tokenizer), turns).ids)
    assert shown.startswith("<s>Seeker:Hello.\nSupp" if opening == "placeholder" else "<s>Supporter:I feel")


def test_the_oldest_turns_leave_a_prefix_first(tokenizer: Any) -> None:
    template, encoder = load_template(tokenizer, "plain"), Encoder(tokenizer)
    turns = dialogue().turns[:5]
    whole = encode_prefix(template, encoder, turns)
    short = encode_prefix(template, encoder, turns, max_tokens=len(whole) - 1)
    assert len(short) < len(whole)
    assert tokenizer.decode(short).startswith(f"<s>Supporter:{TEXTS[1]}")
