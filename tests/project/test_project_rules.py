"""Rules that can be checked in the source: which package imports which, which files import Ray, sizes, docstrings."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("datasets", "wm", "tune", "cluster")
COMMAND = "wm.cli"
"""Starts every verb; nothing imports it."""

ALLOWED_PACKAGES = {
    "datasets": set(),
    "wm": {"datasets"},
    "tune": {"datasets", "wm"},
    "cluster": {"datasets", "wm", "tune"},
}
"""Top-level package -> the others that it may import."""

LAYERS = {
    "datasets": [
        "runtime", "schema", "replays", "checks", "legacy", "sources", "corpus", "loading", "pipeline", "synth", "cli",
    ],
    "wm": [
        "config", "model", "data", "objective", "evaluation", "checkpoints", "rollout", "viewer", "runs", "training",
        "report", "launch", "demo", "cli",
    ],
    "tune": ["config", "search", "analysis", "results", "report", "running", "cli"],
    "cluster": [
        "files", "aws", "nodes", "storage", "jobs", "plan", "card", "preflight", "watch", "report", "submit", "cli",
    ],
}  # fmt: skip
"""Subpackages from the lowest layer to the highest; each imports only lower ones."""
NARROWER = {
    "datasets.synth": {"runtime"},
    "datasets.loading": {"runtime", "schema", "corpus"},
}
"""Subpackages that may import less than their place among the layers allows."""

MAY_IMPORT_RAY = {
    "datasets/pipeline/ray_encode.py",
    "datasets/pipeline/shared_paths.py",
    "datasets/pipeline/worker_errors.py",
    "datasets/runtime/ray_cluster.py",
    "wm/launch/failure_policy.py",
    "wm/launch/ray_reporter.py",
    "wm/launch/ray_workers.py",
    "wm/launch/torch_backend.py",
    "tune/running/asha.py",
    "tune/running/experiment.py",
    "tune/running/observer.py",
    "tune/running/resources.py",
    "tune/running/stopping.py",
    "tune/running/trial_reports.py",
    "tune/running/sweep.py",
    "tune/running/tune_search.py",
    "tune/running/tuner.py",
    "tune/running/user_callbacks.py",
    "cluster/files/ray_schema.py",
    "cluster/aws/fallback.py",
    "cluster/aws/provider.py",
    "cluster/jobs/client.py",
    "cluster/jobs/follow.py",
    "cluster/jobs/submit.py",
    "cluster/nodes/node_usage.py",
    "cluster/watch/cluster_view.py",
    "cluster/preflight/machines.py",
}
WITHOUT_TORCH = (
    "wm.cli", "datasets.cli", "tune.cli", "cluster.cli", "wm.config.run_config", "wm.config.typed_yaml",
    "wm.evaluation.metrics",
)  # fmt: skip
MAX_LINES = 500
MAX_FILES = 15
PROJECT_FILE = re.compile(
    r"(?<![\w/.-])(?:datasets|wm|tune|cluster|tests|benchmarks|docs)/[\w./-]+?\.(?:py|yaml|sh|md|png)\b"
)
MACHINE_PATH = re.compile(r"(?<![\w.{}])/(?:home|Users|root|work|mnt|opt|workspace)/")


@cache
def tracked_files() -> tuple[Path, ...]:
    """Files of the repository; those in the working tree where there is no git."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = listed.stdout.split("\0") if listed.returncode == 0 else []
    paths = [ROOT / name for name in names if name] or [path for path in ROOT.rglob("*") if path.is_file()]
    return tuple(path for path in paths if path.is_file() and ".venv" not in path.parts)


def sources(*folders: str) -> list[Path]:
    """All Python files of some folders."""
    return [path for path in tracked_files() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in folders]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported(path: Path) -> Iterator[str]:
    """Dotted names of all modules that a file imports, also within functions and under TYPE_CHECKING."""
    package = list(path.relative_to(ROOT).parent.parts)
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def imports_ray(path: Path) -> bool:
    return "ray" in {name.split(".")[0] for name in imported(path)}


@pytest.mark.parametrize("package", PACKAGES)
def test_top_level_packages_import_only_those_below_them(package):
    others = set(PACKAGES) - {package} - ALLOWED_PACKAGES[package]
    wrong = [
        f"{relative(path)} imports {name}"
        for path in sources(package)
        if relative(path) != "wm/cli.py"
        for name in imported(path)
        if name.split(".")[0] in others
    ]
    assert not wrong


def layer_of(name: str) -> str:
    """Second part of a dotted module name; empty for the package itself."""
    return [*name.split("."), ""][1]


@pytest.mark.parametrize("package", LAYERS)
def test_subpackages_import_only_lower_layers(package):
    rank = {layer: number for number, layer in enumerate(LAYERS[package])}
    wrong = []
    for path in sources(package):
        layer = layer_of(relative(path).removesuffix(".py").replace("/", "."))
        allowed = NARROWER.get(f"{package}.{layer}", {lower for lower in rank if rank[lower] < rank.get(layer, 0)})
        wrong += [
            f"{relative(path)} imports {name}"
            for name in imported(path)
            if name.split(".")[0] == package and layer_of(name) not in {layer, *allowed}
        ]
    assert not wrong


@pytest.mark.parametrize("package", LAYERS)
def test_every_subpackage_has_a_layer(package):
    found = {path.relative_to(ROOT / package).parts[0].removesuffix(".py") for path in sources(package)}
    assert found - {"__init__"} == set(LAYERS[package])


def test_nothing_imports_the_command():
    wrong = [
        relative(path)
        for path in sources(*PACKAGES)
        if any(name == COMMAND or name.startswith(f"{COMMAND}.") for name in imported(path))
    ]
    assert not wrong


def test_exactly_the_named_files_import_ray():
    assert {relative(path) for path in sources(*PACKAGES) if imports_ray(path)} == MAY_IMPORT_RAY


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_commands_configs_and_metrics_import_neither_torch_nor_ray(module):
    code = f"import sys, {module}; print([name for name in ('torch', 'ray') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_tests_of_a_file_run_in_one_process(request: pytest.FixtureRequest):
    """xdist tells groups by the ends of node ids, which releases of pytest may hide from it: they share fixtures."""
    worker = getattr(request.config, "workerinput", None)  # of xdist
    if worker is None or "--dist loadgroup" not in " ".join(worker["mainargv"]):
        pytest.skip("needs `pytest -n 3 --dist loadgroup`, as in make test")
    assert request.node.nodeid.endswith(f"@{Path(__file__).relative_to(ROOT / 'tests').as_posix()}")


def test_no_file_is_long():
    assert not {
        relative(path): n for path in sources(*PACKAGES) if (n := len(path.read_text().splitlines())) >= MAX_LINES
    }


def test_no_folder_has_many_files():
    counts = Counter(relative(path.parent) for path in tracked_files())
    assert not {folder: number for folder, number in counts.items() if number > MAX_FILES}


def test_no_file_has_a_name_that_says_nothing():
    vague = ("utils", "util", "helpers", "common", "misc")
    assert not [relative(path) for path in sources(*PACKAGES, "tests", "benchmarks") if path.stem in vague]


def test_no_file_names_a_path_of_one_machine():
    kinds = {".py", ".md", ".yaml", ".yml", ".toml", ".sh", ".txt", ""}
    wrong = [
        f"{relative(path)}:{number}"
        for path in tracked_files()
        if path.suffix in kinds and path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert not wrong


def test_files_that_the_documentation_names_exist():
    named = {
        (relative(path), name)
        for path in tracked_files()
        if path.suffix == ".md"
        for name in PROJECT_FILE.findall(path.read_text())
    }
    assert len(named) > 30
    assert not [(page, name) for page, name in named if "NAME" not in name and not (ROOT / name).is_file()]


def test_every_package_has_an_init_file():
    """Without it, a package of an installed copy could take the place of the checkout's."""
    assert not {relative(path.parent) for path in sources(*PACKAGES) if not (path.parent / "__init__.py").is_file()}


def test_every_module_has_a_docstring():
    assert not [relative(path) for path in sources(*PACKAGES) if tree(path).body and not ast.get_docstring(tree(path))]


def test_every_public_function_and_class_has_a_docstring():
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    wrong = [
        f"{relative(path)}: {node.name}"
        for path in sources(*PACKAGES)
        for node in tree(path).body
        if isinstance(node, kinds) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert not wrong
