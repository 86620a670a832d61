"""One run, from its configuration to RUN/model: open the directory, build or resume, train, measure, save.

`extes_train.train` and `extes_train.pretrain` call `run_training`; it is the table of contents of this package.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from extes_train.composition import plain
from extes_train.config import TrainConfig
from extes_train.dialogue.files import read_json, write_json, write_text
from extes_train.engine.config import running_stage
from extes_train.errors import Interrupted, Requeue, RunDirError, TrainingError, UserError
from extes_train.model.choosing import describe_attention
from extes_train.model.flops import peak_flops, throughput, training_flops
from extes_train.model.loss import describe_loss
from extes_train.tokens.show import render_sample
from extes_train.training import checkpoint
from extes_train.training.assembly import RunData, build_training_engine, check_ranks_agree
from extes_train.training.budget import Spent
from extes_train.training.heldout import heldout_perplexity
from extes_train.training.loop import Hooks, train
from extes_train.training.memory import memory_kind, peak_memory_bytes
from extes_train.training.profiling import profiled
from extes_train.training.progress import Progress
from extes_train.training.run_dir import RunDir, cut_after, open_run_dir
from extes_train.training.signals import GO_ON, INTERRUPT, StopRequest, catching_signals
from extes_train.training.step_data import StepSource
from extes_train.training.tracking import Tracker
from extes_train.training.watchdog import Watchdog

if TYPE_CHECKING:
    from extes_train.engine.engine import Engine
    from extes_train.engine.process_group import ProcessGroup

SAMPLE_LINES = 12  # of the decoded sample, before training; debug=show prints all


def run_training(config: TrainConfig, data: RunData, group: ProcessGroup, overrides: Sequence[str]) -> Spent:
    """Train `config` on `data` and leave RUN/model, RUN/cost.json and RUN/heldout.jsonl. All ranks call it.

    A run directory with checkpoints goes on where the last completed one stands. Raises Requeue or Interrupted after
    a signal (a checkpoint is written), UserError or TrainingError where it cannot go on.
    """
    check_ranks_agree(config, group)
    run = _opened(config, data, group, overrides)
    with catching_signals() as stop:
        engine, parameters = build_training_engine(config, group)
        spent = _resumed(engine, group, run)
        session = Session(config, data, group, run, engine, spent)
        with session.open():
            session.train(stop)
            session.finish(parameters)
    return spent


class Session:
    """The parts of a run that is going on, and what the loop calls by name."""

    def __init__(
        self, config: TrainConfig, data: RunData, group: ProcessGroup, run: RunDir, engine: Engine, spent: Spent
    ) -> None:
        self.config, self.data, self.group, self.run, self.engine, self.spent = config, data, group, run, engine, spent
        self.saved_step = spent.step
        self.first_loss: float | None = None
        self.last_loss: float | None = None
        self.tracker: Tracker | None = None
        self.flops = training_flops(engine.model)
        peak = peak_flops(engine.device, config.model.dtype)
        self.peak = None if peak is None else peak * group.world_size
        self.watchdog = Watchdog(config.distributed.watchdog_s)
        self.progress = Progress(
            "train", data.plan.total_steps, start=spent.step, unit="step", enabled=group.rank == 0
        )  # fmt: skip

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Start the tracker (rank 0) and the watchdog; close them whatever happens."""
        if self.group.rank == 0:
            self.tracker = Tracker(self.run, self.config.tracker, plain(self.config))
        try:
            with self.watchdog:
                yield
        finally:
            self.progress.close()
            if self.tracker is not None:
                self.tracker.close()

    def train(self, stop: StopRequest) -> None:
        """Use the budget up. Raises Requeue or Interrupted once a checkpoint stands."""
        source, before = self._source(self.data.train), self.spent.step
        self._say_choices(source)
        with profiled(self.config, self.run, self.group) as self.profiler_step:
            hooks = Hooks(self._log, self._save, self._evaluate, self._step_done)
            reason = train(self.engine, source, self.data.budget, self.spent, stop, self.group, self.config, hooks)
        if reason != GO_ON:
            self._stop(reason, stop)
        if self.spent.step == 0:
            raise TrainingError("trained 0 steps: the budget (optim.max_steps, max_targets, max_seconds) allows none")
        if self.spent.step == before:
            self.progress.say(f"nothing left to train: {before} steps are done; the model is written again")
        if self.config.debug.name == "overfit":
            self._check_overfit()

    def finish(self, parameters: dict[str, int]) -> None:
        """Last checkpoint, held-out perplexity, RUN/model and RUN/cost.json."""
        if self.config.checkpoint.at_end and self.saved_step != self.spent.step:
            self._save(self.spent)
        self._evaluate(self.spent)
        self._write_model(parameters)
        (memory,) = self.group.max([float(peak_memory_bytes())])
        if self.group.rank == 0:
            write_json(self.run.cost, cost_of(self.spent, int(memory), parameters))
            self.run.requeue.unlink(missing_ok=True)
            written = "profile and model" if self.config.debug.name == "profile" else "model"
            self.progress.say(f"{written} written to {self.run.path}")
        self.group.barrier()

    def _write_model(self, parameters: dict[str, int]) -> None:
        from extes_train.model.saving import save_final

        state = self.engine.full_state_dict()
        self.watchdog.beat()
        if state is not None:  # rank 0
            card = {"run": self.run.path.name, "steps": self.spent.step, "targets": self.spent.targets, **parameters}
            save_final(self.engine.model, state, self.data.tokenizer, self.config, self.run.model, card)
        self.group.barrier()

    def _log(self, line: dict[str, Any]) -> None:
        self.first_loss = line["loss"] if self.first_loss is None else self.first_loss
        self.last_loss = line["loss"]
        line |= throughput(self.flops, line, self.peak)
        if self.tracker is not None:
            self.tracker.log_step(line)
        shown = f"loss {line['loss']:.4f} lr {line['lr']:.2e} {line['tokens_per_s']:.0f} tokens/s"
        shown += f" mfu {line['mfu']:.1%}" if "mfu" in line else f" {line['tflops_per_s']:.3g} TFLOP/s"
        self.progress.update(shown, self.spent.step - self.progress.count)

    def _say_choices(self, source: StepSource) -> None:
        """Which attention the first step's rows go through, and which loss: to the log, and as `attention` and `loss`
        to provenance.json. Raises ConfigError, on all ranks, where `loss.kernel` cannot run."""
        loss = describe_loss(self.engine.model, self.config.loss, self.engine.device)
        if self.group.rank != 0:
            return
        lines = describe_attention(self.engine.model, source.share(self.spent.step).rows)
        for line in lines:
            self.progress.say(f"attention: {line}")
        self.progress.say(f"loss: {loss}")
        write_json(self.run.provenance, {**read_json(self.run.provenance), "attention": lines, "loss": loss})

    def _step_done(self) -> None:
        self.watchdog.beat()
        self.profiler_step()

    def _save(self, spent: Spent) -> None:
        checkpoint.save_checkpoint(
            self.engine, self.group, self.run.checkpoints, spent, self.config.checkpoint.keep_last
        )  # fmt: skip
        self.saved_step = spent.step
        self.watchdog.beat()

    def _evaluate(self, spent: Spent) -> None:
        if self.data.heldout is None or not len(self.data.heldout):
            return
        source = self._source(self.data.heldout)
        measured = heldout_perplexity(self.engine, source, self.group, self.watchdog.beat)
        if self.tracker is not None:
            self.tracker.log_heldout({"step": spent.step, **measured})
        self.progress.say(f"step {spent.step}: held-out perplexity {measured['perplexity']:.3f}")

    def _source(self, dataset: Any) -> StepSource:
        architecture: Any = self.engine.model.config
        return StepSource(
            dataset, self.data.plan, self.config.tokens.tokens_per_row, self.group.rank, self.group.world_size,
            self.engine.device, architecture.hidden_size,
        )  # fmt: skip

    def _stop(self, reason: int, stop: StopRequest) -> None:
        if self.saved_step != self.spent.step or not checkpoint.completed_steps(self.run.checkpoints):
            self._save(self.spent)
        name = stop.signal_name or "a signal on another rank"
        if reason == INTERRUPT:
            raise Interrupted(f"stopped by {name} at step {self.spent.step}; the same command goes on from here")
        if self.group.rank == 0:
            write_text(self.run.requeue, f"{self.spent.step}\n")
        self.group.barrier()
        raise Requeue(f"{name}: checkpointed at step {self.spent.step}, to be started again")

    def _check_overfit(self) -> None:
        first, last = self.first_loss, self.last_loss
        if first is not None and last is not None and last > 0.1 * first:
            raise TrainingError(
                f"debug=overfit: one step's data over and over took the loss from {first:.3f} to {last:.3f} only in "
                f"{self.spent.step} steps; more optim.max_steps or another optim.lr, or something is wrong"
            )


def cost_of(spent: Spent, memory_bytes: int, parameters: dict[str, int]) -> dict[str, Any]:
    """The content of RUN/cost.json."""
    seconds = max(spent.seconds, 1e-9)
    return {
        "train_seconds": spent.seconds, "steps": spent.step, "dialogues": spent.dialogues, "tokens": spent.tokens,
        "flat_tokens": spent.flat_tokens, "targets": spent.targets, "tokens_per_s": spent.tokens / seconds,
        "targets_per_s": spent.targets / seconds, "peak_memory_bytes": memory_bytes, "memory_kind": memory_kind(),
        **parameters,
    }  # fmt: skip


def _opened(config: TrainConfig, data: RunData, group: ProcessGroup, overrides: Sequence[str]) -> RunDir:
    """Rank 0 opens the directory; where it fails, all ranks do."""
    error: UserError | None = None
    if group.rank == 0:
        try:
            open_run_dir(config, overrides, data.digests, [sys.executable, *sys.argv])
        except UserError as caught:
            error = caught
    (failed,) = group.max([float(error is not None)])
    if failed:
        raise error or RunDirError(f"run_dir={config.run_dir}: refused by rank 0")
    return RunDir(config.run_dir)


def _resumed(engine: Engine, group: ProcessGroup, run: RunDir) -> Spent:
    """Go back to the newest completed checkpoint, if there is one; metrics past it are cut."""
    (newest,) = group.max([float(max(checkpoint.completed_steps(run.checkpoints), default=0))])
    if group.rank == 0:
        for torn in checkpoint.torn_checkpoints(run.checkpoints):
            print(f"{torn}: was never completed; ignored and removed", file=sys.stderr)
            shutil.rmtree(torn)
        for path in (run.metrics, run.heldout):
            cut_after(path, int(newest))
    group.barrier()
    if not newest:
        return Spent()
    spent = checkpoint.load_checkpoint(engine, group, run.checkpoints / f"step-{int(newest)}")
    if group.rank == 0:
        print(f"resuming {run.path} after step {spent.step}", file=sys.stderr)
    return spent


def announce(config: TrainConfig, data: RunData, group: ProcessGroup) -> None:
    """Say what will be trained, and show the sample's beginning (rank 0): targets marked, before the first step."""
    if group.rank != 0:
        return
    steps = data.plan.total_steps
    print(
        f"train {config.tuning.name} on {len(data.train)} windows of {len(data.sides.train)} dialogues "
        f"({config.tokens.layout}, {group.world_size} process{'es' if group.world_size > 1 else ''}, "
        f"{'until its budget is used' if steps is None else f'{steps} steps'})",
        file=sys.stderr,
    )
    for line in (*engine_lines(config), *sides_lines(config, data), *data.train.describe()):
        print(f"  {line}", file=sys.stderr)
    shown = show_sample(config, data, color=sys.stderr.isatty()).splitlines()
    print("\n".join(shown[:SAMPLE_LINES] + (["…"] if len(shown) > SAMPLE_LINES else [])), file=sys.stderr)


def engine_lines(config: TrainConfig) -> list[str]:
    """What runs otherwise than it was asked for."""
    stage = running_stage(config.zero, config.model.dtype)
    if stage == config.zero.stage:
        return []
    return [f"zero.stage={config.zero.stage} runs as stage {stage} in {config.model.dtype}: its sums are in fp32"]


def sides_lines(config: TrainConfig, data: RunData) -> list[str]:
    """Where the held-out side comes from, and every dialogue that was left out of training."""
    report = data.sides.report
    held_out = f"{len(data.sides.valid)} dialogues held out ({report['valid_from']})"
    lines = [held_out if data.sides.valid else "no dialogue is held out: no perplexity will be measured"]
    lines += [
        f"{count} dialogues of side {side} are not trained on" for side, count in report.get("left_out", {}).items()
    ]
    if report.get("beyond_max_dialogues"):
        lines.append(f"{report['beyond_max_dialogues']} dialogues beyond data.max_dialogues left out")
    if config.data.shuffle_responses:
        lines.append("a control: responses come from other dialogues (data.shuffle_responses=true)")
    return lines


def show_sample(config: TrainConfig, data: RunData, color: bool) -> str:
    """One decoded sample (debug.sample_index), targets marked."""
    index = config.debug.sample_index
    if not 0 <= index < len(data.train):
        raise UserError(f"debug.sample_index={index}: the data has {len(data.train)} windows")
    return render_sample(data.train, index, color)
