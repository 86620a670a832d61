"""Who imports whom (DESIGN: The house), read from the sources; nothing is imported here."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("extes_train", "data_gen", "launch")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
HEAVY = ("torch", "transformers", "deepspeed", "peft", "datasets", "wandb", "hydra", "omegaconf", "accelerate")

# part of extes_train -> the parts it may import at any depth of a function. Entry points are not listed: they may all
FLOOR = ("errors", "dialogue", "environment")
MAY_IMPORT = {
    "errors": (),
    "dialogue": ("errors",),
    "tokens": FLOOR,
    "model": (*FLOOR, "config"),
    "engine": (*FLOOR, "model", "config"),
    "training": (*FLOOR, "tokens", "model", "engine", "evaluation", "config", "composition", "worker"),
    "evaluation": (*FLOOR, "tokens", "model", "engine", "config", "composition"),
    "report": ("errors", "dialogue"),
}
CONFIGS_FOR_LAUNCH = ("environment", "config", "composition", "config_errors", "overrides", "errors", "dialogue")


def module_of(path: Path) -> str:
    """a/b/c.py -> a.b.c; a/b/__init__.py -> a.b."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, top_only: bool = False) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import; `top_only`: those that run when the module is imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in _import_time(tree) if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.lineno, node.module or ""
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def _import_time(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if not typing_only and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield node
            yield from _import_time(node)


def wrong(path: Path, forbidden: str) -> str:
    """One line of a failure message."""
    return f"{path.relative_to(ROOT)} imports {forbidden}"


def test_the_sources_are_found() -> None:
    assert {module_of(path).split(".")[0] for path in FILES} == set(PACKAGES)
    assert len(FILES) > 60


def test_nothing_imports_launch_and_data_gen_stands_alone() -> None:
    faults = []
    for path in FILES:
        package = module_of(path).split(".")[0]
        for line, name in imports(path):
            other = name.split(".")[0]
            if other == "launch" and package != "launch":
                faults.append(wrong(path, f"{name} (line {line})"))
            if other == "data_gen" and package == "extes_train":
                faults.append(wrong(path, f"{name} (line {line})"))
            trainer = package == "data_gen" and name.startswith("extes_train.")
            if trainer and not name.startswith(("extes_train.dialogue", "extes_train.errors")):
                faults.append(wrong(path, f"{name} (line {line})"))
    assert faults == []


def test_parts_of_extes_train_point_one_way() -> None:
    faults = []
    for path in FILES:
        parts = module_of(path).split(".")
        if parts[0] != "extes_train" or len(parts) < 2 or parts[1] not in MAY_IMPORT:
            continue
        allowed = {parts[1], *MAY_IMPORT[parts[1]]}
        for line, name in imports(path):
            target = name.split(".")
            if target[0] == "extes_train" and len(target) > 1 and target[1] not in allowed:
                faults.append(wrong(path, f"{name} (line {line})"))
    assert faults == []


def test_there_are_no_cycles_at_import_time() -> None:
    known = {module_of(path): path for path in FILES}
    graph = {
        module: {name for _, name in imports(path, top_only=True) if name in known and name != module}
        for module, path in known.items()
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for other in sorted(graph[module]):
                visit(other, (*trail, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_configs_and_package_files_import_nothing_heavy() -> None:
    light = [path for path in FILES if path.name in ("config.py", "__init__.py", "errors.py", "environment.py")]
    faults = [
        wrong(path, name)
        for path in light
        for _, name in imports(path)
        if name.split(".")[0] in HEAVY and path.name != "environment.py"
    ]
    assert faults == []


def test_dialogue_has_no_torch_and_launch_none_at_module_level() -> None:
    faults = []
    for path in FILES:
        parts = module_of(path).split(".")
        dialogue = parts[:2] == ["extes_train", "dialogue"] or parts[0] == "data_gen"
        for _, name in imports(path, top_only=not dialogue):
            heavy = name.split(".")[0] in ("torch", "transformers", "deepspeed", "peft")
            if heavy and (dialogue or parts[0] == "launch") and "embedding" not in path.stem:
                faults.append(wrong(path, name))
    assert faults == []


def test_launch_reads_only_configs_and_dialogues_of_the_trainer() -> None:
    """At module level; a verb may load what it runs when it runs it."""
    faults = []
    for path in FILES:
        if module_of(path).split(".")[0] != "launch":
            continue
        for line, name in imports(path, top_only=True):
            target = name.split(".")
            a_config = "config" in target
            if target[0] == "extes_train" and len(target) > 1 and target[1] not in CONFIGS_FOR_LAUNCH and not a_config:
                faults.append(wrong(path, f"{name} (line {line})"))
    assert faults == []


def test_the_environment_is_read_in_one_file_a_package() -> None:
    faults = []
    for path in FILES:
        if path.name == "environment.py":
            continue
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        # setting a variable for what a library will read is no reading
        writers = ("update", "pop", "setdefault")
        written = [node.value for node in nodes if isinstance(node, ast.Attribute) and node.attr in writers]
        for node in nodes:
            if (
                isinstance(node, ast.Attribute)
                and node.attr in ("environ", "getenv", "environb")
                and node not in written
            ):
                faults.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert faults == []


def test_tests_stay_out_of_packages() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("module", ["launch.main", "launch.config", "extes_train.composition", "data_gen.config"])
def test_what_every_command_loads_is_light(module: str) -> None:
    program = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
