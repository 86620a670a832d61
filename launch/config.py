"""What the launcher composes: the training configuration plus launchers, comparison and data generation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from data_gen.config import GenerateConfig, InpaintConfig, ServeConfig, TeacherConfig
from extes_train.config import TRAIN_SCHEMAS, TrainConfig
from extes_train.dialogue.checks import at_least, one_of
from extes_train.errors import ConfigError


@dataclass
class LauncherConfig:
    """Fields that every launcher has."""

    name: str = "local"  # local | torchrun | deepspeed | slurm
    dry_run: bool = False  # print every command (and sbatch text) and stop
    preflight: bool = True  # check before anything starts
    environment: dict[str, str] = field(default_factory=dict)  # variables for the workers


@dataclass
class LocalConfig(LauncherConfig):
    """One process on this machine."""

    name: str = "local"


@dataclass
class TorchrunConfig(LauncherConfig):
    """Several processes on this machine."""

    name: str = "torchrun"
    processes: int | None = None  # None: one per GPU; without a GPU 2
    max_restarts: int = 3  # elastic restarts after a killed worker
    arguments: list[str] = field(default_factory=list)  # further torchrun options

    def __post_init__(self) -> None:
        at_least("launcher.processes", self.processes, 1)
        at_least("launcher.max_restarts", self.max_restarts, 0)


@dataclass
class DeepspeedConfig(LauncherConfig):
    """The deepspeed launcher over ssh."""

    name: str = "deepspeed"
    hostfile: str | None = None  # lines "host slots=N"; None: this machine
    processes: int | None = None  # per node
    arguments: list[str] = field(default_factory=list)  # further deepspeed options

    def __post_init__(self) -> None:
        at_least("launcher.processes", self.processes, 1)


@dataclass
class SlurmConfig(LauncherConfig):
    """Jobs on a Slurm cluster: sbatch, and srun with a static rendezvous."""

    name: str = "slurm"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    nodes: int = 1
    gpus_per_node: int = 0  # 0: CPU only
    gpu_request: str = "gpus-per-node"  # gpus-per-node | gres
    gpu_type: str | None = None
    gpu_memory_gib: float | None = None  # of one GPU, for the memory estimate; None: by gpu_type
    processes_per_node: int | None = None  # None: one per GPU, or 1
    cpus_per_task: int | None = None
    memory: str | None = None  # per node, as sbatch --mem takes it
    time_limit: str = "24:00:00"
    signal_margin_s: int = 300  # before the time limit; Slurm is up to 12 s off
    signal: str = "USR2"  # NCCL takes USR1
    requeue: bool = True
    max_requeues: int = 100
    array_concurrency: int | None = None  # arms at one time
    master_port: int | None = None  # None: from the job id
    modules: list[str] = field(default_factory=list)  # module load …
    setup: list[str] = field(default_factory=list)  # shell lines before srun
    container: str = "none"  # none | apptainer | pyxis
    container_image: str | None = None
    container_arguments: list[str] = field(default_factory=list)
    sbatch_options: list[str] = field(default_factory=list)  # further #SBATCH lines, e.g. --exclude=node7
    srun_options: list[str] = field(default_factory=list)
    network: dict[str, str] = field(default_factory=dict)  # NCCL/IB/socket variables (config group `network`)
    follow: bool = False  # stay and show the log
    python: str | None = None  # interpreter on the nodes; None: this one
    # of the teacher job; {python} is ours
    teacher_command: str = "vllm serve {model} --host 0.0.0.0 --port {port} --tensor-parallel-size {gpus}"
    teacher_gpus: int = 1  # of the teacher job
    teacher_time_limit: str = "24:00:00"
    array_size: int = 4  # shards of a generation array

    def __post_init__(self) -> None:
        one_of("launcher.gpu_request", self.gpu_request, ("gpus-per-node", "gres"))
        one_of("launcher.container", self.container, ("none", "apptainer", "pyxis"))
        at_least("launcher.nodes", self.nodes, 1)
        at_least("launcher.gpus_per_node", self.gpus_per_node, 0)
        at_least("launcher.processes_per_node", self.processes_per_node, 1)
        at_least("launcher.cpus_per_task", self.cpus_per_task, 1)
        at_least("launcher.teacher_gpus", self.teacher_gpus, 0)
        at_least("launcher.array_size", self.array_size, 1)
        at_least("launcher.signal_margin_s", self.signal_margin_s, 1)
        at_least("launcher.max_requeues", self.max_requeues, 0)
        at_least("launcher.array_concurrency", self.array_concurrency, 1)


@dataclass
class PretrainConfig:
    """The tiny base model of the quickstart: trained on the `base` side, cached by its inputs."""

    enabled: bool = False
    cache_dir: str | None = None  # None: the tokens cache's parent
    max_steps: int = 350
    dialogues_per_step: int = 32
    lr: float = 3e-3
    vocab_size: int = 1536
    context_length: int = 256


@dataclass
class CompareConfig:
    """Arms on equal terms."""

    out: str = "outputs/compare"
    arms: list[str] = field(default_factory=lambda: ["full/none", "lora/none", "full/dri", "lora/dri"])
    seeds: list[int] = field(default_factory=lambda: [0])
    budget: str = "steps"  # steps | targets | seconds | epochs
    sweep: dict[str, Any] = field(default_factory=dict)  # dotted key -> list of values
    tuning: dict[str, Any] = field(default_factory=dict)  # per tuning overrides, e.g. compare.tuning.lora.optim.lr=1e-3
    generate: bool = False  # grow the data first (quickstart)

    def __post_init__(self) -> None:
        one_of("compare.budget", self.budget, ("steps", "targets", "seconds", "epochs"))
        if any(seed < 0 for seed in self.seeds):
            raise ConfigError(f"compare.seeds={self.seeds}: must be at least 0")


@dataclass
class RootConfig(TrainConfig):
    """Everything, typed. Workers see the last sections untyped (extes_train.config)."""

    launcher: LauncherConfig = field(default_factory=LauncherConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    serve: ServeConfig = field(default_factory=ServeConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    inpaint: InpaintConfig = field(default_factory=InpaintConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    compare: CompareConfig = field(default_factory=CompareConfig)


SCHEMAS: dict[str, type] = {
    **TRAIN_SCHEMAS,
    "launcher/local": LocalConfig,
    "launcher/torchrun": TorchrunConfig,
    "launcher/deepspeed": DeepspeedConfig,
    "launcher/slurm": SlurmConfig,
}
