"""Everything that can be known before a launch: `extes doctor`, and the first thing every launch does.

A check gives lines to read and problems to mend; a launch with a problem does not start. Nothing here imports torch:
what needs it runs in a child (launch.audit).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from extes_train.composition import compose
from extes_train.dialogue.files import read_json
from extes_train.engine.config import running_stage
from extes_train.errors import EXIT_OK, EXIT_USER, ExtesError, LaunchError, terminal_width
from launch.audit import Audit, audit
from launch.composing import Request, read_request
from launch.config import DeepspeedConfig, RootConfig, SlurmConfig
from launch.estimates import MemoryCheck, check_memory, disk_bytes, estimate_time
from launch.memory import GIB, ModelFacts, format_bytes, model_facts
from launch.weights import check_weights


@dataclass
class Report:
    """What was found: `lines` of (check, text), and `problems`, each saying what to do."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    audit: Audit | None = None
    memory: MemoryCheck | None = None

    def tell(self, check: str, text: str) -> None:
        """Add a line."""
        self.lines.append((check, text))

    def render(self, columns: int | None = None) -> str:
        """For a person, lines broken at `columns`."""
        width = max((len(check) for check, _ in self.lines), default=0)
        lines = []
        for check, text in self.lines:
            first, *more = text.splitlines() or [""]
            lines += [f"  {check:<{width}}  {first}", *(" " * (width + 4) + line for line in more)]
        lines += [f"  problem: {problem}" for problem in self.problems]
        if columns is None:
            return "\n".join(lines)
        hang = " " * (width + 4)
        return "\n".join(
            part
            for line in lines
            for part in textwrap.wrap(
                line, columns, subsequent_indent=hang, break_long_words=False, break_on_hyphens=False
            )
            or [line]
        )


def doctor(arguments: Sequence[str]) -> int:
    """`extes doctor`: check what `extes train` with the same words would need; starts nothing."""
    request = read_request("doctor", arguments)
    if request is None:
        return EXIT_OK
    report = examine(request, with_audit=True)
    print(report.render(terminal_width(sys.stdout)))
    if report.problems:
        print(f"{len(report.problems)} problem{'s' if len(report.problems) > 1 else ''}")
        return EXIT_USER
    print("ready")
    return EXIT_OK


def check_launch(request: Request) -> Report:
    """Check a launch and say in a line or two what it will take. Raises LaunchError naming every problem.

    Workers on this machine tokenise as their first act and fail on the same data in the same seconds, so the audit
    runs for launches that wait in a queue or start on other machines.
    """
    remote = isinstance(request.config.launcher, (SlurmConfig, DeepspeedConfig))
    report = examine(request, with_audit=remote)
    refuse(report.problems)
    for check in ("data", "memory", "time"):
        for name, text in report.lines:
            if name == check and (remote or check != "data"):
                print(f"preflight: {name}: {text.splitlines()[0]}")
    return report


def refuse(problems: Sequence[str]) -> None:
    """Raise LaunchError with every problem, if there is one; a single one is the whole message."""
    if len(problems) == 1:
        raise LaunchError(problems[0])
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise LaunchError(f"not started, {len(problems)} problems:\n{listed}")


def examine(request: Request, with_audit: bool) -> Report:
    """Run every check; one that fails does not hide the others."""
    report = Report()
    checks: list[Callable[[Request, Report], None]] = [
        check_composes, check_files, check_model, check_run_dir, check_programs, check_cluster,
    ]  # fmt: skip
    for check in checks:
        _guarded(check, request, report)
    if with_audit and not report.problems:
        _guarded(check_audit, request, report)
    for check in (check_memory_fits, check_disk, check_duration):
        _guarded(check, request, report)
    return report


def problems_of_arm(request: Request) -> list[str]:
    """What would stop an arm of a comparison; its run directory is made anew where nothing is lost by it."""
    report = Report()
    for check in (check_model, check_programs, check_memory_fits, check_disk):
        _guarded(check, request, report)
    return report.problems


def _guarded(check: Callable[[Request, Report], None], request: Request, report: Report) -> None:
    try:
        check(request, report)
    except ExtesError as error:
        if str(error) not in report.problems:
            report.problems.append(str(error))


def check_composes(request: Request, report: Report) -> None:
    """The worker composes the same words to the same run."""
    config = compose(request.overrides)
    stage = running_stage(config.zero, config.model.dtype)
    report.tell("run", f"{config.tuning.name}, {config.augmentation.name} augmentation, ZeRO-{stage}, "
                f"{config.model.dtype}; {request.config.launcher.name}; run_dir {config.run_dir}")  # fmt: skip


def check_files(request: Request, report: Report) -> None:
    """The data is there."""
    from launch.training import require_data

    require_data(request)


def check_model(request: Request, report: Report) -> None:
    """The model folder holds a configuration, a tokenizer and safetensors."""
    from launch.training import require_model

    require_model(request)
    model = request.config.model
    folder = Path(model.path or "")
    if not folder.is_dir():
        report.tell("model", f"{model.path}: a hub id; every node needs the network or a filled cache")
        return
    missing = [name for name in ("config.json",) if not (folder / name).is_file()]
    if missing:
        raise LaunchError(f"model.path={folder}: has no {missing[0]}; it must hold a model in Hugging Face's layout")
    if not model.random_weights and not list(folder.glob("*.safetensors")):
        raise LaunchError(f"model.path={folder}: has no *.safetensors; convert the weights with transformers first")
    if not model.random_weights:
        check_weights(folder)
    facts = read_facts(request.config)
    if facts:
        report.tell("model", f"{folder.name}: {facts.parameters / 1e6:,.1f} M parameters, {facts.num_layers} layers")


def read_facts(config: RootConfig) -> ModelFacts | None:
    """The model's shape, None where its configuration is not on this machine or not Llama's."""
    path = Path(config.model.path or "") / "config.json"
    try:
        return model_facts(read_json(path))
    except (OSError, KeyError, TypeError, ValueError):
        return None


def check_run_dir(request: Request, report: Report) -> None:
    """The run directory can be written and belongs to this configuration."""
    from extes_train.training.run_dir import RunDir, differing_keys

    run = RunDir(Path(request.config.run_dir).resolve())
    parent = nearest_directory(run.path)
    above = (run.path, *run.path.parents)
    if files := [path for path in above if path.exists() and not path.is_dir()]:
        raise LaunchError(f"run_dir={run.path}: {files[0]} is a file; choose another run_dir")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise LaunchError(f"run_dir={run.path}: {parent} cannot be written; choose another run_dir")
    if run.config.is_file():
        config = compose(request.overrides)
        config.run_dir = str(run.path)
        differing = differing_keys(run, config)
        if differing:
            shown = "; ".join(f"{key}: {old!r} there, {new!r} now" for key, old, new in differing[:5])
            raise LaunchError(f"run_dir={run.path}: holds a run with another configuration ({shown}); choose another")
        steps = [int(path.parent.name[5:]) for path in run.checkpoints.glob("step-*/COMPLETED")]
        report.tell("run_dir", f"goes on from step {max(steps, default=0)}")


def nearest_directory(path: Path) -> Path:
    """The deepest directory above `path` that exists."""
    return next(parent for parent in (path, *path.parents) if parent.is_dir())


def check_programs(request: Request, report: Report) -> None:
    """Optional packages and compilers that the configuration asks for."""
    model = request.config.model
    slurm = isinstance(request.config.launcher, SlurmConfig) and request.config.launcher.container != "none"
    if model.attention == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None and not slurm:
        raise LaunchError(
            'model.attention=flash_attention_2: flash-attn is not installed; `pip install "extes[gpu]" '
            "--no-build-isolation` with CUDA_HOME set, or model.attention=auto"
        )
    if request.config.loss.kernel == "liger" and importlib.util.find_spec("liger_kernel") is None and not slurm:
        raise LaunchError(
            'loss.kernel=liger: liger-kernel is not installed; `pip install "liger-kernel>=0.8.3,<0.9"` or '
            "loss.kernel=auto"
        )
    if model.compile and shutil.which("g++") is None and shutil.which("clang++") is None and not slurm:
        raise LaunchError(
            "model.compile=true: needs a C++ compiler (g++ or clang++) on the nodes; or model.compile=false"
        )
    if request.config.tuning.name == "qlora" and importlib.util.find_spec("bitsandbytes") is None and not slurm:
        raise LaunchError('tuning=qlora: bitsandbytes is not installed; `pip install "extes[gpu]"` or tuning=lora')


def check_cluster(request: Request, report: Report) -> None:
    """Slurm: partition, time, nodes, GPUs; then `sbatch --test-only` of the very script."""
    launcher = request.config.launcher
    if not isinstance(launcher, SlurmConfig):
        return
    from launch.launchers.slurm import training_job
    from launch.slurm.cluster import check_request, read_cluster
    from launch.slurm.submit import try_submission

    problems = check_request(launcher, read_cluster())
    report.problems += problems
    if not problems:
        start = try_submission(training_job(launcher, Path(request.config.run_dir).resolve()), launcher)
        report.tell("slurm", f"{launcher.nodes} node(s), {launcher.time_limit}; would start {start}")


def check_audit(request: Request, report: Report) -> None:
    """Tokenise in a child; the counts, and a decoded sample."""
    found = audit(request)
    if found.error is not None:
        raise LaunchError(found.error)
    report.audit = found
    share = found.targets / max(1, found.tokens)
    text = f"{found.dialogues} dialogues, {found.windows} windows, {found.tokens:,} tokens, {share:.0%} of them targets"
    report.tell("data", "\n".join([text, *found.notes]))
    report.tell("sample", found.sample)


def check_memory_fits(request: Request, report: Report) -> None:
    """The estimate against what a rank has, with the smallest change that fits."""
    facts = read_facts(request.config)
    if facts is None:
        return
    report.memory = check_memory(request.config, facts, report.audit)
    report.tell("memory", report.memory.describe())
    if report.memory.problem:
        raise LaunchError(report.memory.problem)


def check_disk(request: Request, report: Report) -> None:
    """Room for the checkpoints that are kept, the one being written, and the final model."""
    facts = read_facts(request.config)
    if facts is None:
        return
    needed = disk_bytes(request.config, facts)
    directory = nearest_directory(Path(request.config.run_dir).resolve())
    free = shutil.disk_usage(directory).free
    report.tell("disk", f"{format_bytes(needed)} of {free / GIB:,.0f} GiB free at {directory}")
    if needed > free:
        raise LaunchError(
            f"run_dir={request.config.run_dir}: checkpoints and model need {format_bytes(needed)}, "
            f"{format_bytes(free)} are free there; set checkpoint.keep_last=1, or a run_dir on a larger file system"
        )


def check_duration(request: Request, report: Report) -> None:
    """A rough time, from this run's own speed where it has one, else from a table."""
    facts = read_facts(request.config)
    if facts is not None and report.audit is not None:
        text = estimate_time(request.config, facts, report.audit)
        if text:
            report.tell("time", text)
