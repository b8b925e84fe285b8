"""The house: imports go one way, from the book down to the modules at the door, and never in a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"regroup_lib": ROOT / "regroup_lib", "regroup_book": ROOT / "book" / "regroup_book"}
# From the ground up. Encoders train networks of `nn`, and `nn` fits networks on encoded images.
FLOORS = [{"door"}, {"data"}, {"nn", "encoders"}, {"runs"}, {"top"}, {"book"}]
TOP = {"regroup_lib.comparison", "regroup_lib.report", "regroup_lib.cli", "regroup_lib.__main__"}


def floor_of(module):
    if module in TOP:
        room = "top"
    elif module.startswith("regroup_book"):
        room = "book"
    else:
        room = module.split(".")[1] if module.count(".") > 1 else "door"
    return next(i for i, rooms in enumerate(FLOORS) if room in rooms)


@pytest.fixture(scope="module")
def imports():
    """Return the modules of both packages that each one imports, at its top or inside a function."""
    files = {
        ".".join((name, *path.relative_to(folder).with_suffix("").parts)): path
        for name, folder in PACKAGES.items()
        for path in folder.rglob("*.py")
    }
    found = {}
    for module, path in files.items():
        nodes = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.ImportFrom)]
        named = {n.module for n in nodes} | {f"{n.module}.{alias.name}" for n in nodes for alias in n.names}
        found[module] = named & set(files)
    return found


def test_imports_go_down(imports):
    upward = [(a, b) for a, targets in imports.items() for b in targets if floor_of(b) > floor_of(a)]
    assert not upward


def test_there_is_no_circle(imports):
    assert len(list(TopologicalSorter(imports).static_order())) == len(imports)  # raises CycleError where there is one


def test_every_room_has_modules(imports):
    assert {floor_of(module) for module in imports} == set(range(len(FLOORS)))
