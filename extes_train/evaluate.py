"""Score a run on its held-out side.

    python -m extes_train.evaluate OVERRIDES      the overrides of the run; evaluation.model names another folder
    torchrun --nproc-per-node 2 -m extes_train.evaluate OVERRIDES

Writes RUN/evaluation/generations.jsonl, dialogues.jsonl (each dialogue's part of the perplexity, tuned and base) and,
last, RUN/evaluation/metrics.json, for evaluation.model too. Supporter turns are scored, whatever tokens.targets says.
The base model is scored on the same tokens; its scores are kept in the cache, so arms of a comparison share them.
Every rank holds the whole model and takes a share of rows and batches; how many there are changes no number.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extes_train.composition import compose
from extes_train.config import TrainConfig
from extes_train.environment import cache_directory, rank_variables
from extes_train.worker import run_worker

if TYPE_CHECKING:
    from extes_train.dialogue.schema import Dialogue
    from extes_train.evaluation.perplexity import Scores
    from extes_train.evaluation.ranks import Ranks
    from extes_train.tokens.dataset import TokenDataset
    from extes_train.training.signals import StopRequest

SCORES_FORMAT = 2  # of the cached scores of base models


@dataclass
class Session:
    """What is measured, by whom, and whether somebody wants to stop."""

    config: TrainConfig
    folder: Path
    dialogues: list[Dialogue]
    dataset: TokenDataset
    ranks: Ranks
    stop: StopRequest
    beat: Callable[[], None] = lambda: None

    @contextlib.contextmanager
    def progress(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar on rank 0; told after every round how many responses are done, on all ranks, which agree to stop."""
        from extes_train.training.progress import Progress

        progress = Progress(name, total, unit="response", enabled=self.ranks.rank == 0)

        def advance(count: int) -> None:
            progress.update(count=count)
            self.beat()
            stop_together(self.ranks, self.stop)

        try:
            yield advance
        finally:
            progress.close()


def main(arguments: Sequence[str]) -> None:
    """Evaluate the run of the overrides `arguments`."""
    config = compose(list(arguments))
    if rank_variables().world_size == 1:
        evaluate(config)
        return
    prepared = _prepared(config)  # what the user can get wrong is met before the ranks meet

    from extes_train.engine.process_group import process_group

    with process_group(config.distributed) as group:
        _evaluate(*prepared, group)


def evaluate(config: TrainConfig) -> dict[str, Any]:
    """Measure RUN/model (or evaluation.model) and its base in this process; returns what metrics.json holds.

    Raises ModelError without a model, DataError for an empty side.
    """
    from extes_train.evaluation.loading import measuring_device
    from extes_train.evaluation.ranks import Alone

    return _evaluate(*_prepared(config), Alone(measuring_device()))


def _evaluate(
    config: TrainConfig, folder: Path, dialogues: list[Dialogue], dataset: TokenDataset, ranks: Ranks
) -> dict[str, Any]:
    from extes_train.training.signals import catching_signals
    from extes_train.training.watchdog import Watchdog

    with catching_signals() as stop, Watchdog(config.distributed.watchdog_s) as watchdog:
        return measure(Session(config, folder, dialogues, dataset, ranks, stop, watchdog.beat))


def measure(session: Session) -> dict[str, Any]:
    """All measures of the session's model; rank 0 writes them."""
    from extes_train.dialogue.files import write_json
    from extes_train.evaluation.loading import load_tuned

    config, dataset, out = session.config, session.dataset, Path(session.config.run_dir) / "evaluation"
    base, base_dialogues = _base_scores(session)
    model = load_tuned(config.model, session.folder, session.ranks.device)
    session.beat()
    scores = _score("score tuned model", model, session)
    metrics: dict[str, Any] = {
        "base_perplexity": base["perplexity"],
        "base_nll_per_byte": base["nll_per_byte"],
        **scores.as_dict(),
        "side": config.evaluation.side,
        "dialogues": len(session.dialogues),
        "skipped": len(dataset.report.get("skipped", [])),
    }
    metrics.update(_data_measures(session.dialogues))
    metrics.update(_generation_measures(model, session, out))
    if session.ranks.rank == 0:
        _write_dialogues(out / "dialogues.jsonl", scores, base_dialogues, dataset)
        write_json(out / "metrics.json", metrics)
        print(_summary(metrics, out), flush=True)
    return metrics


def stop_together(ranks: Ranks, stop: StopRequest) -> None:
    """Raise Interrupted or Requeue on every rank once one of them was told to stop. All ranks call it."""
    from extes_train.errors import Interrupted, Requeue
    from extes_train.training.signals import GO_ON, INTERRUPT

    (wish,) = ranks.max([float(stop.value)])
    if wish == GO_ON:
        return
    name = stop.signal_name or "a signal on another rank"
    if wish == INTERRUPT:
        raise Interrupted(f"evaluation stopped by {name}; the same command starts it again")
    raise Requeue(f"{name}: evaluation stopped, to be started again")


def _write_dialogues(path: Path, scores: Scores, base: list[dict[str, Any]], dataset: TokenDataset) -> None:
    """One line a dialogue: its id, its targets, the NLL of both models in nats."""
    from extes_train.dialogue.files import write_text

    lines = [
        {"dialogue": dataset.dialogue_ids[one.dialogue], "targets": one.targets, "nll": one.nll, "base_nll": of["nll"]}
        for one, of in zip(scores.by_dialogue, base, strict=True)
    ]
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def _prepared(config: TrainConfig) -> tuple[TrainConfig, Path, list[Dialogue], TokenDataset]:
    """The configuration with its base model filled in, the tuned one's folder, the held-out dialogues, tokenised."""
    from extes_train.dialogue.sides import load_sides
    from extes_train.errors import DataError
    from extes_train.evaluation.loading import base_config, tuned_folder
    from extes_train.model.loading import load_tokenizer
    from extes_train.tokens.dataset import build_dataset

    folder = tuned_folder(config.run_dir, config.evaluation.model)
    config = replace(config, model=base_config(config.model, folder))
    side = config.evaluation.side
    # training has checked for leaks; the control moves responses of the train side only
    sides = load_sides(replace(config.data, leak_check=False, shuffle_responses=False))
    dialogues = sides.test if side == "test" else sides.valid
    if not dialogues:
        raise DataError(f"evaluation.side={side}: holds no dialogue; give data.{side} or data.valid_fraction")
    dataset = build_dataset(
        dialogues,
        load_tokenizer(config.model),
        replace(config.tokens, targets="supporter"),
        context_length=_context_length(config),
        chat_template=config.model.chat_template,
        name=f"data.{side}",
    )
    return config, folder, dialogues, dataset


def _context_length(config: TrainConfig) -> int:
    from transformers import AutoConfig

    from extes_train.model.loading import context_length

    shape = AutoConfig.from_pretrained(str(config.model.path), revision=config.model.revision)
    return context_length(config.model, shape)


def _base_scores(session: Session) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Scores of the base model on the token list, whole and by dialogue, from the cache or measured now."""
    from extes_train.dialogue.files import locked, read_json, write_json
    from extes_train.evaluation.loading import weights_key
    from extes_train.evaluation.perplexity import token_list_digest

    config, ranks = session.config, session.ranks
    weights = weights_key(config.model)
    name = f"{weights}-{token_list_digest(session.dataset.windows)}-{SCORES_FORMAT}.json"
    path = cache_directory() / "base_scores" / name
    # rank 0 looks and holds the lock, so that arms evaluated side by side score the base once
    mine = weights is not None and ranks.rank == 0
    with locked(path.with_suffix(".lock")) if mine else contextlib.nullcontext():
        found = ranks.broadcast(read_json(path) if mine and path.is_file() else None)
        if found is None:
            found = _measured_base(session)
            if mine:
                write_json(path, found)
    return found["scores"], found["dialogues"]


def _measured_base(session: Session) -> dict[str, Any]:
    from extes_train.evaluation.loading import load_base

    model = load_base(session.config.model, session.ranks.device)
    session.beat()
    scores = _score("score base model", model, session)
    return {"scores": scores.as_dict(), "dialogues": [asdict(one) for one in scores.by_dialogue]}


def _score(name: str, model: Any, session: Session) -> Scores:
    from extes_train.evaluation.perplexity import score_responses

    total = sum(response.alternative < 0 for window in session.dataset.windows for response in window.responses)
    with session.progress(name, total) as advance:
        return score_responses(model, session.dataset, session.ranks, session.config.loss, advance)


def _data_measures(dialogues: list[Dialogue]) -> dict[str, Any]:
    """Measures of the held-out dialogues themselves, where their turns are labelled."""
    from extes_train.evaluation.strategies import strategy_entropy, strategy_repetition

    measures = {"strategy_entropy": strategy_entropy(dialogues), "strategy_repetition": strategy_repetition(dialogues)}
    return {name: value for name, value in measures.items() if value is not None}


def _generation_measures(model: Any, session: Session, out: Path) -> dict[str, Any]:
    """Generate, write generations.jsonl, and measure overlap and diversity; nothing where num_responses is 0."""
    from extes_train.dialogue.files import write_text
    from extes_train.evaluation.generation import Generator, generate_responses, pick_contexts

    config, dataset, ranks = session.config, session.dataset, session.ranks
    contexts = pick_contexts(session.dialogues, config.evaluation.num_responses)
    if not contexts:
        return {"num_responses": 0}
    generator = Generator(model, dataset.template, dataset.report["context_length"], config.evaluation)
    with session.progress("generate", len(contexts)) as advance:
        answers = generate_responses(generator, contexts, advance, ranks)
    if ranks.rank != 0:
        return {}
    lines = [
        {
            "dialogue": context.dialogue_id,
            "turn": context.turn,
            "said": context.before[-1].text,
            "reference": context.reference,
            "response": answer.text,
            "tokens": answer.num_tokens,
            "finished": answer.finished,
        }
        for context, answer in zip(contexts, answers)
    ]
    write_text(out / "generations.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    measures = response_measures([answer.text for answer in answers], [context.reference for context in contexts])
    return measures | {
        "num_responses": len(lines),
        "finished": sum(answer.finished for answer in answers) / len(lines),
        "decoding": f"sampled, temperature {config.evaluation.temperature:g}, top-p {config.evaluation.top_p:g}"
        if config.evaluation.temperature
        else "greedy",
    }


def response_measures(responses: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """Overlap with the references and diversity of generated responses."""
    from extes_train.evaluation.diversity import distinct, duplicate_share
    from extes_train.evaluation.overlap import METEOR_NAME, bleu, meteor, rouge_l

    meteor_score = meteor(responses, references)
    return {
        **bleu(responses, references),
        "rouge_l": rouge_l(responses, references),
        METEOR_NAME: meteor_score,
        "meteor": meteor_score,
        **{f"distinct{n}": distinct(responses, n) for n in (1, 2, 3)},
        "duplicate_responses": duplicate_share(responses),
    }


def _summary(metrics: dict[str, Any], out: Path) -> str:
    line = f"perplexity {metrics['perplexity']:.3f} (base {metrics['base_perplexity']:.3f})"
    if "bleu4" in metrics:
        line += f", BLEU-4 {metrics['bleu4']:.2f}, ROUGE-L {metrics['rouge_l']:.3f}, METEOR {metrics['meteor']:.3f}"
        line += f", Distinct-2 {metrics['distinct2']:.3f}"
    return f"{line}; written to {out}"


if __name__ == "__main__":
    run_worker(main)
