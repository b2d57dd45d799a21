"""The library's modules import one another in one direction only, imports within functions included."""

from __future__ import annotations

import ast
from collections.abc import Container, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parents[2] / "hmmemu"


def imports(node: ast.AST, modules: Container[str]) -> Iterator[str]:
    """What a source imports; what it does for types only is left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.ImportFrom) and child.module:
            for alias in child.names:
                inner = f"{child.module}.{alias.name}"
                yield inner if inner in modules else child.module
        elif isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        yield from imports(child, modules)


def graph(folder: Path) -> dict[str, set[str]]:
    files = {}
    for path in folder.rglob("*.py"):
        *parents, stem = path.relative_to(folder.parent).with_suffix("").parts
        files[".".join(parents if stem == "__init__" else [*parents, stem])] = path
    found = {name: set(imports(ast.parse(path.read_text()), files)) for name, path in files.items()}
    return {name: (used & files.keys()) - {name, folder.name} for name, used in found.items()}


def test_no_module_imports_one_that_imports_it() -> None:
    arrows = graph(LIBRARY)
    assert "hmmemu.memory" in arrows["hmmemu.space"] and "hmmemu.link_file" in arrows["hmmemu.link"]
    try:
        list(TopologicalSorter(arrows).static_order())
    except CycleError as error:
        pytest.fail("these modules import each other in a circle: " + " <- ".join(error.args[1]))


def test_a_circle_is_found(tmp_path: Path) -> None:
    package = tmp_path / "some"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text("import some.two\n")
    (package / "two.py").write_text("def late():\n    from some import one\n")
    (package / "three.py").write_text("if TYPE_CHECKING:\n    import some.four\n")
    (package / "four.py").write_text("import some.three\n")
    arrows = graph(package)
    assert arrows["some.three"] == set() and arrows["some.four"] == {"some.three"}
    with pytest.raises(CycleError):
        list(TopologicalSorter(arrows).static_order())
