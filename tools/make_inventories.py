"""Writes the small intersphinx inventories in ``_inv``: links to other projects resolve without a network.

Run it after adding a name that a docstring or an annotation mentions::

    python tools/make_inventories.py
"""

from __future__ import annotations

import zlib
from pathlib import Path

HEAD = "# Sphinx inventory version 2\n# Project: {}\n# Version: {}\n"
HEAD += "# The remainder of this file is compressed using zlib.\n"
ROOT = Path(__file__).resolve().parent.parent
TORCH = "generated/torch.{0}.html#torch.{0}"
PANDAS = "reference/api/pandas.{0}.html#pandas.{0}"
INVENTORIES: dict[str, tuple[str, str, dict[str, tuple[str, str]]]] = {
    "python": (
        "Python",
        "3",
        {
            "collections.abc.Sequence": ("class", "library/collections.abc.html#collections.abc.Sequence"),
            "collections.abc.Iterable": ("class", "library/collections.abc.html#collections.abc.Iterable"),
            "collections.abc.Iterator": ("class", "library/collections.abc.html#collections.abc.Iterator"),
            "collections.abc.Mapping": ("class", "library/collections.abc.html#collections.abc.Mapping"),
            "collections.abc.Callable": ("class", "library/collections.abc.html#collections.abc.Callable"),
            "pathlib.Path": ("class", "library/pathlib.html#pathlib.Path"),
            "os.PathLike": ("class", "library/os.html#os.PathLike"),
            "types.ModuleType": ("class", "library/types.html#types.ModuleType"),
            "typing.Any": ("data", "library/typing.html#typing.Any"),
            "typing.Literal": ("data", "library/typing.html#typing.Literal"),
            "typing.NamedTuple": ("class", "library/typing.html#typing.NamedTuple"),
            "object": ("class", "library/functions.html#object"),
            "str": ("class", "library/stdtypes.html#str"),
            "int": ("class", "library/functions.html#int"),
            "float": ("class", "library/functions.html#float"),
            "bool": ("class", "library/functions.html#bool"),
            "bytes": ("class", "library/stdtypes.html#bytes"),
            "list": ("class", "library/stdtypes.html#list"),
            "tuple": ("class", "library/stdtypes.html#tuple"),
            "dict": ("class", "library/stdtypes.html#dict"),
            "set": ("class", "library/stdtypes.html#set"),
            "type": ("class", "library/functions.html#type"),
            "None": ("data", "library/constants.html#None"),
            "ValueError": ("exception", "library/exceptions.html#ValueError"),
            "TypeError": ("exception", "library/exceptions.html#TypeError"),
            "KeyError": ("exception", "library/exceptions.html#KeyError"),
            "IndexError": ("exception", "library/exceptions.html#IndexError"),
            "ImportError": ("exception", "library/exceptions.html#ImportError"),
            "RuntimeError": ("exception", "library/exceptions.html#RuntimeError"),
            "FloatingPointError": ("exception", "library/exceptions.html#FloatingPointError"),
            "FileNotFoundError": ("exception", "library/exceptions.html#FileNotFoundError"),
            "OSError": ("exception", "library/exceptions.html#OSError"),
            "AssertionError": ("exception", "library/exceptions.html#AssertionError"),
            "NotImplementedError": ("exception", "library/exceptions.html#NotImplementedError"),
            "UserWarning": ("exception", "library/exceptions.html#UserWarning"),
        },
    ),
    "torch": (
        "PyTorch",
        "2",
        {
            "torch.Tensor": ("class", "tensors.html#torch.Tensor"),
            "torch._tensor.Tensor": ("class", "tensors.html#torch.Tensor"),
            "torch.Generator": ("class", TORCH.format("Generator")),
            "torch._C.Generator": ("class", TORCH.format("Generator")),
            "torch.nn.modules.sparse.Embedding": ("class", TORCH.format("nn.Embedding")),
            "Make": ("class", "optim.html#torch.optim.Optimizer"),
            "torch.device": ("class", "tensor_attributes.html#torch.device"),
            "torch.dtype": ("class", "tensor_attributes.html#torch.dtype"),
            "torch.nn.Module": ("class", TORCH.format("nn.Module")),
            "torch.nn.modules.module.Module": ("class", TORCH.format("nn.Module")),
            "torch.nn.Parameter": (
                "class",
                "generated/torch.nn.parameter.Parameter.html#torch.nn.parameter.Parameter",
            ),
            "torch.nn.parameter.Parameter": (
                "class",
                "generated/torch.nn.parameter.Parameter.html#torch.nn.parameter.Parameter",
            ),
            "torch.nn.modules.container.ModuleDict": ("class", TORCH.format("nn.ModuleDict")),
            "torch.nn.modules.container.ModuleList": ("class", TORCH.format("nn.ModuleList")),
            "torch.nn.modules.container.Sequential": ("class", TORCH.format("nn.Sequential")),
            # Short names as they stand in annotations that are never evaluated.
            "Tensor": ("class", "tensors.html#torch.Tensor"),
            "nn.Module": ("class", TORCH.format("nn.Module")),
            "torch.optim.optimizer.Optimizer": ("class", "optim.html#torch.optim.Optimizer"),
            "torch.optim.Optimizer": ("class", "optim.html#torch.optim.Optimizer"),
        },
    ),
    "numpy": (
        "NumPy",
        "2",
        {
            "numpy.ndarray": ("class", "reference/generated/numpy.ndarray.html#numpy.ndarray"),
            "ArrayLike": ("class", "reference/typing.html#numpy.typing.ArrayLike"),
            "np.dtype": ("class", "reference/generated/numpy.dtype.html#numpy.dtype"),
            "numpy.dtype": ("class", "reference/generated/numpy.dtype.html#numpy.dtype"),
            "numpy.random.Generator": ("class", "reference/random/generator.html#numpy.random.Generator"),
            "numpy.float64": ("class", "reference/arrays.scalars.html#numpy.float64"),
            "numpy.bool": ("class", "reference/arrays.scalars.html#numpy.bool"),
            "numpy.int64": ("class", "reference/arrays.scalars.html#numpy.int64"),
            "numpy.typing.NDArray": ("class", "reference/typing.html#numpy.typing.NDArray"),
            "numpy.typing.ArrayLike": ("class", "reference/typing.html#numpy.typing.ArrayLike"),
        },
    ),
    "matplotlib": (
        "Matplotlib",
        "3",
        {
            name: ("class", address)  # the short names: matplotlib is imported inside functions only
            for names, address in (
                (
                    ("Figure", "matplotlib.figure.Figure"),
                    "api/_as_gen/matplotlib.figure.Figure.html#matplotlib.figure.Figure",
                ),
                (
                    ("Axes", "matplotlib.axes.Axes"),
                    "api/_as_gen/matplotlib.axes.Axes.html#matplotlib.axes.Axes",
                ),
            )
            for name in names
        },
    ),
    "pandas": (
        "pandas",
        "3",
        {
            name: ("class", PANDAS.format(name.rpartition(".")[2]))
            for name in (
                "pandas.DataFrame",
                "pandas.Series",
                "pd.DataFrame",
                "pd.Series",
                "pandas.core.frame.DataFrame",
                "pandas.core.series.Series",
            )
        },
    ),
}

if __name__ == "__main__":
    (ROOT / "_inv").mkdir(exist_ok=True)
    for key, (project, version, rows) in INVENTORIES.items():
        body = "".join(f"{name} py:{kind} 1 {address} -\n" for name, (kind, address) in sorted(rows.items()))
        (ROOT / "_inv" / f"{key}.inv").write_bytes(
            HEAD.format(project, version).encode() + zlib.compress(body.encode(), 9)
        )
