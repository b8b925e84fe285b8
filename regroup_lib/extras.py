"""Optional packages: the extra that installs each, and the error that names it. Text that is safe to print."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

# Extra -> the modules of its packages.
EXTRAS = {
    "torch": ("torch", "torchvision", "safetensors"),
    "encoders": ("open_clip", "onnxruntime"),
    "imblearn": ("imblearn", "k_means_constrained"),
    "runs": ("pydantic", "typer", "tqdm", "filelock", "pooch", "platformdirs", "yaml", "PIL", "joblib", "skops"),
    "cluster": ("dask", "distributed"),
    "text": ("huggingface_hub", "transformers", "sentence_transformers"),
    "plots": ("matplotlib",),
    "tables": ("pyarrow",),
}


def import_extra(module: str) -> ModuleType:
    """Import a module that needs a package of an extra, or is one; the error has the command that installs it."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise explained(error) from error


def explained(error: ModuleNotFoundError) -> ModuleNotFoundError:
    """Return an error that names the extra with a missing package, or the error itself if no extra has it."""
    missing = str(error.name).partition(".")[0]
    for extra, modules in EXTRAS.items():
        if missing in modules:
            what = f"{missing} is not installed; install it with: pip install 'regroup_lib[{extra}]'"
            return ModuleNotFoundError(what, name=error.name)
    return error


def printable(text: str) -> str:
    """Return a text in one line, with escape codes in place of control characters."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
