"""One call that makes a notebook give the same output on another day and another CPU."""

from __future__ import annotations

import importlib
import random
import warnings
from collections.abc import Callable
from types import ModuleType

import numpy as np
import torch


def setup(seed: int = 0, threads: int = 1, float64: bool = True) -> None:
    """Fix what makes two runs differ: seeds, threads, float width and figure bytes.

    One thread is also the fastest choice for models of this size: two threads spend more time waiting
    for each other than computing. In float32 a thousand steps are enough for two CPU types to disagree
    in the first digit, in float64 they agree to about seven; hence the default.

    Args:
        seed: Seed of the generators of Python, NumPy and torch.
        threads: Threads torch may use inside one operation.
        float64: Make float64 the default dtype of new float tensors (float32 otherwise).

    Raises:
        ValueError: If ``threads`` is no whole number from one, or ``seed`` none from 0 to 2**32 - 1.
    """
    for name, value, low, high in (("seed", seed, 0, 2**32 - 1), ("threads", threads, 1, 2**16)):
        if (
            isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high
        ):  # before anything is set
            raise ValueError(
                f"{name} must be a whole number from {low} to {high}, found {value!r}: correct it."
            )
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    importlib.import_module("threadpoolctl").threadpool_limits(threads)  # scikit-learn obeys it
    torch.use_deterministic_algorithms(True)
    torch.set_default_dtype(torch.float64 if float64 else torch.float32)
    _stable_figures()


def _stable_figures() -> None:
    """Inside IPython, show figures as SVG (the page) with a PNG beside it (JupyterLab on opening)."""
    try:
        import matplotlib
        from IPython.core.getipython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:
        return
    matplotlib.rcParams["svg.hashsalt"] = "mtl_ref"  # else ids inside an SVG are random
    matplotlib.rcParams["svg.fonttype"] = "path"
    if get_ipython() is not None:
        stamps = {"Date": None, "Creator": None}
        show: Callable[..., None] = set_matplotlib_formats
        show("svg", "png", bbox_inches="tight", metadata=stamps)


def need(module: str, extra: str) -> ModuleType:
    """Import an optional module, or say how to get it.

    Args:
        module: Dotted name of the module.
        extra: The optional dependency group of ``mtl-ref`` that brings it.

    Returns:
        The imported module.

    Raises:
        ImportError: If it is not installed; the message names the extra.
    """
    try:
        with warnings.catch_warnings():  # tqdm remarks that a notebook has no widgets; nobody asked for any
            warnings.filterwarnings("ignore", message="IProgress not found")
            return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module.split('.')[0]} is needed here and is not installed: "
            f'run pip install "mtl-ref[{extra}]" or pip install {module.split(".")[0]}.'
        ) from error
