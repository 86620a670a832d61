"""Similarity by a local sentence model: a tiny BERT whose vectors are known, in a sentence-transformers folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest

from data_gen.config import InpaintConfig, TeacherConfig
from data_gen.diversity import Response, consistency, similarity
from data_gen.embedding import load_sentence_model
from data_gen.inpaint import inpaint
from data_gen.inpainting import Inpainting
from data_gen.prompting import load_prompts
from data_gen.teacher.client import Completion
from extes_train.dialogue.jsonl import read_dialogues, write_dialogues
from extes_train.dialogue.schema import Dialogue, Turn, make_dialogue
from extes_train.dialogue.taxonomy import load_taxonomy
from extes_train.errors import ConfigError

EXTES = load_taxonomy("extes")
MEANINGS = (
    ("sorry", "regret", "sad", "sorrow"),
    ("sleep", "rest", "bed", "tired"),
    ("friend", "colleague", "neighbour", "companion"),
    ("walk", "stroll", "outside", "park"),
    ("call", "phone", "ring", "voice"),
)  # words of a row share a vector, those of different rows are orthogonal
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT without layers whose token vectors say what row of MEANINGS a word is of; unknown words say nothing."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("sentences")
    words = [word for row in MEANINGS for word in row]
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(path)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **shape))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for name, parameter in model.named_parameters():
            if "LayerNorm.weight" in name:
                parameter.fill_(1.0)
        vectors = model.embeddings.word_embeddings.weight
        for row, meaning in enumerate(MEANINGS):
            for word in meaning:  # components that sum to 0: LayerNorm keeps the direction
                vectors[vocabulary[word], 2 * row : 2 * row + 2] = torch.tensor([1.0, -1.0])
    model.save_pretrained(path)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    described = [{"path": where, "type": f"sentence_transformers.models.{kind}"} for where, kind in modules]
    (path / "modules.json").write_text(json.dumps(described))
    (path / "1_Pooling").mkdir()
    pooling = {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}
    (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (path / "sentence_bert_config.json").write_text('{"max_seq_length": 12}')
    return path


@pytest.fixture
def unloaded() -> Iterator[None]:
    load_sentence_model.cache_clear()
    yield
    load_sentence_model.cache_clear()


def responses(folder: Path, *texts: str) -> list[Response]:
    found = [Response(text) for text in texts]
    for response, vector in zip(found, load_sentence_model(str(folder)).vectors(texts)):
        response.vector = vector
    return found


def test_vectors_are_means_over_the_words_and_padding_changes_none(folder: Path) -> None:
    model = load_sentence_model(str(folder))
    assert model.max_tokens == 12
    texts = ["sorry", "sleep well sorry friend outside call", "sorry sleep"]
    together, alone = model.vectors(texts), numpy.concatenate([model.vectors([text]) for text in texts])
    assert numpy.abs(together - alone).max() < 1e-6
    assert numpy.linalg.norm(together, axis=1) == pytest.approx(1.0)
    assert together[0] @ together[2] == pytest.approx(2**-0.5, abs=1e-4)  # half of it is meant
    assert numpy.abs(model.vectors(["sorry " * 40])[0] - together[0]).max() < 1e-6  # cut, not refused


def test_meaning_decides_and_words_do_not(folder: Path) -> None:
    sorry, regret, walk = responses(folder, "so sorry, friend", "with regret: my colleague", "a stroll in the park")
    assert similarity(sorry, regret) > 0.99 and similarity(sorry, walk) < 0.01
    assert similarity(Response(sorry.text), Response(regret.text)) < 0.1  # no word in common
    following, original, near, far = responses(folder, "my bed", "sleep", "rest", "phone")
    assert consistency(near, original, following) == pytest.approx(1.0)
    assert consistency(far, original, following) == pytest.approx(0.5)


def dialogue() -> Dialogue:
    turns = [
        Turn("seeker", "nobody came"),
        Turn("supporter", "so sorry", "affirmation"),
        Turn("seeker", "it was a sad day"),
        Turn("supporter", "sleep first", "affirmation"),
    ]
    return make_dialogue("academic-stress", "", turns)


def test_inpainting_keeps_by_meaning(folder: Path) -> None:
    """The near-copy shares no word with the original; the inconsistent one leads away from the next turn."""
    settings = InpaintConfig(
        num_alternatives=2, oversample=1.0, strategy="free", embedding_model=str(folder), min_consistency=0.6
    )
    settings.filters.language = None
    prompts = load_prompts(None, EXTES)
    work = Inpainting(settings, TeacherConfig(), prompts, [dialogue()], load_sentence_model(str(folder)))
    said = ("what sorrow", "take a stroll", "regret, and a friend, a colleague, outside")
    value = {"alternatives": [{"text": text, "strategy": "affirmation"} for text in said]}
    record, _ = work.judge(work.plan()[0], "sha", Completion("", "stop", 1, 1, parsed=value))
    assert record["reasons"] == {"inconsistent": 1, "near_copy": 1}
    assert [kept["text"] for kept in record["kept"]["1"]] == [said[2]]


def test_a_whole_run_with_a_model(folder: Path, tmp_path: Path, teacher: TeacherConfig) -> None:
    write_dialogues(tmp_path / "in.jsonl", [dialogue()])
    paths = {"input": str(tmp_path / "in.jsonl"), "out": str(tmp_path / "out")}
    config = InpaintConfig(**paths, num_alternatives=2, embedding_model=str(folder), max_similarity=0.999)
    result = inpaint(config, teacher)
    counts = result.card["counts"]
    assert counts["alternatives_asked"] == counts["alternatives_kept"] + counts["alternatives_rejected"] > 0
    assert result.card["settings"]["embedding_model"] == folder.name
    assert len(read_dialogues(tmp_path / "out" / "dialogues.jsonl")) == 1


def test_a_folder_that_cannot_serve_stops_before_anything_is_asked(
    folder: Path, tmp_path: Path, unloaded: None
) -> None:
    write_dialogues(tmp_path / "in.jsonl", [dialogue()])
    nowhere = TeacherConfig(base_url="http://127.0.0.1:9/v1")
    config = InpaintConfig(input=str(tmp_path / "in.jsonl"), out=str(tmp_path / "out"), embedding_model=str(tmp_path))
    with pytest.raises(ConfigError, match=r"inpaint\.embedding_model=.*config\.json.*nothing is downloaded"):
        inpaint(config, nowhere)
    assert not (tmp_path / "out").exists()
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(ConfigError, match=r"inpaint\.embedding_model=.*cannot be loaded"):
        load_sentence_model(str(copy))
    (copy / "modules.json").write_text(json.dumps([{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]))
    with pytest.raises(ConfigError, match="names Dense; known are Transformer, Pooling, Normalize"):
        load_sentence_model(str(copy))
    (copy / "modules.json").unlink()
    (copy / "1_Pooling").mkdir()
    (copy / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(ConfigError, match="pools by pooling_mode_max_tokens"):
        load_sentence_model(str(copy))
