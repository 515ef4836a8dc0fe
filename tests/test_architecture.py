"""The arrows between the packages run one way, as docs/architecture.md says."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from aicl_fast.extras import EXTRAS

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("kernels", "train", "export", "bench")
ALLOWED = {
    "kernels": {"kernels"},
    "aicl_fast": {"aicl_fast", "kernels"},
    "train": {"train", "aicl_fast", "kernels"},
    "export": {"export", "aicl_fast", "kernels"},
    "bench": {"bench", "train", "export", "aicl_fast", "kernels"},
}
LOWEST = ("aicl_fast.errors", "aicl_fast.extras")
FILES = [path for package in ALLOWED for path in sorted((ROOT / package).rglob("*.py"))]
TORCH = {
    "aicl_fast/model.py",
    "aicl_fast/torch_file.py",
    "aicl_fast/weights.py",
    "aicl_fast/engines/torch.py",
    "aicl_fast/video/i3d.py",
    "aicl_fast/video/i3d_weights.py",
}


def _imports(path: Path, *, top: bool = False) -> set[str]:
    """Modules that a file imports; with ``top``, only those imported as the file is loaded."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = [*_loaded(tree)] if top else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _module(path: Path) -> str:
    """The name under which a file is imported."""
    package, *rest = path.relative_to(ROOT).with_suffix("").parts
    parts = ["aicl_fast", *([package] if package in PACKAGES else []), *rest]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _without_type_checking(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            yield node
            yield from _without_type_checking(node)


def _imported(path: Path, modules: Iterable[str]) -> set[str]:
    """Which of these modules a file imports, at its top or within a function."""
    found = set()
    for node in _without_type_checking(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= members & set(modules) or {node.module}
    return found & set(modules) - {_module(path)}


def _loaded(tree: ast.Module) -> Iterator[ast.stmt]:
    """What runs as a file is loaded, ``with needs(...)`` included."""
    for node in tree.body:
        yield from node.body if isinstance(node, ast.With) else (node,)


def _package(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] != "aicl_fast":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in PACKAGES else "aicl_fast"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_run_one_way(path: Path) -> None:
    name = path.relative_to(ROOT)
    if name.parts[:2] == ("aicl_fast", "cli"):
        return  # may use all of them
    for module in _imports(path):
        package = _package(module)
        if package is not None and not module.startswith(LOWEST):
            assert package in ALLOWED[name.parts[0]], f"{name} imports {module}"


def test_no_import_circles() -> None:
    modules = {_module(path): path for path in FILES}
    imports = TopologicalSorter({name: _imported(path, modules) for name, path in modules.items()})
    imports.prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("path", sorted((ROOT / "aicl_fast").rglob("*.py")), ids=str)
def test_torch_is_imported_where_it_is_named(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    heavy = {module.split(".")[0] for module in _imports(path, top=True)} & {"torch", "triton", "numba"}
    assert not heavy or name in TORCH


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.relative_to(ROOT).parts[0] != "bench"], ids=str
)
def test_optional_packages_are_imported_with_the_name_of_their_extra(path: Path) -> None:
    """Else a library call ends in ModuleNotFoundError where the package is missing."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        bare = {name.split(".")[0] for name in names} & set(EXTRAS)
        assert not bare, f"{path}: import {', '.join(bare)} under `with needs(...)`"
