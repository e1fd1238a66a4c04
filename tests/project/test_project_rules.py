"""The rules of the house that can be read off the source: who imports whom, who may know Ray."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("datasets", "wm", "tune", "cluster")
FRONT_DOORS = ("wm/cli.py", "wm/__main__.py")
"""The only files that know all four rooms."""
FORBIDDEN = {
    "datasets": {"wm", "tune", "cluster"},
    "wm": {"tune", "cluster"},
    "tune": {"cluster"},
    "cluster": {"datasets", "wm", "tune"},
}
"""Room -> rooms that it must not know: imports point tune -> wm -> datasets."""
MAY_IMPORT_RAY = {
    "datasets/pipeline/ray_encode.py",
    "datasets/runtime/ray_cluster.py",
    "wm/launch/ray_train.py",
    "tune/sweep.py",
    "cluster/client.py",
    "cluster/follow.py",
    "cluster/submit.py",
}
"""Ray lives at the edges: starting it, the corpus' chunks, training, sweeps, and jobs on a cluster."""
MAX_LINES = 500
MACHINE_PATH = re.compile(r"(?<![\w.{}])/(?:home|Users|root|work|mnt|opt|workspace)/")


def sources(*folders: str) -> list[Path]:
    """All Python files of some folders."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path) -> Iterator[str]:
    """Dotted names of all modules that a file imports, also within functions and under TYPE_CHECKING."""
    package = list(path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_between_rooms_point_one_way(room):
    wrong = [
        f"{relative(path)} imports {name}"
        for path in sources(room)
        if relative(path) not in FRONT_DOORS
        for name in imported(path)
        if name.split(".")[0] in FORBIDDEN[room]
    ]
    assert not wrong


def test_nothing_imports_the_front_door():
    doors = tuple(door.removesuffix(".py").replace("/", ".") for door in FRONT_DOORS)
    wrong = [
        f"{relative(path)} imports {name}"
        for path in sources(*ROOMS)
        if relative(path) not in FRONT_DOORS
        for name in imported(path)
        if any(name == door or name.startswith(f"{door}.") for door in doors)
    ]
    assert not wrong


def test_only_the_named_files_import_ray():
    found = {relative(path) for path in sources(*ROOMS) if "ray" in {n.split(".")[0] for n in imported(path)}}
    assert found <= MAY_IMPORT_RAY


def test_every_file_named_as_importing_ray_does_so_if_it_is_there():
    for name in MAY_IMPORT_RAY:
        path = ROOT / name
        assert not path.exists() or "ray" in {module.split(".")[0] for module in imported(path)}, name


def test_no_file_of_our_rooms_is_long():
    assert not {relative(path): n for path in sources(*ROOMS) if (n := len(path.read_text().splitlines())) >= MAX_LINES}


def test_no_file_is_a_drawer_for_everything():
    assert not [relative(path) for path in sources(*ROOMS) if path.stem in ("utils", "helpers", "common", "misc")]


def test_no_file_names_a_machines_own_paths():
    texts = [*sources(*ROOMS, "benchmarks", "tests"), *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    texts += [
        *ROOT.glob("configs/**/*.yaml"),
        *ROOT.glob("*.yaml"),
        ROOT / "Makefile",
        ROOT / "pyproject.toml",
    ]
    wrong = [
        f"{relative(path)}:{number}"
        for path in texts
        if path.name != Path(__file__).name
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert not wrong


def test_every_module_says_what_it_is_for():
    modules = {relative(path): ast.parse(path.read_text()) for path in sources(*ROOMS)}
    assert not [name for name, module in modules.items() if module.body and not ast.get_docstring(module)]


def test_no_public_function_or_class_lacks_a_docstring():
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    wrong = [
        f"{relative(path)}: {node.name}"
        for path in sources(*ROOMS)
        for node in ast.parse(path.read_text()).body
        if isinstance(node, kinds) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert not wrong
