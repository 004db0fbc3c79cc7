"""A bundle as one ONNX graph, and the session that scores raw rows with it.

The graph holds encoder, heads and links: raw tensors in, one number per column of ``Bundle.predict`` out.
Batch size and text length are free; there are no loops and no branches, so that the cost of a row does not
depend on what it holds.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .features import Features
from .reproducible import need
from .rows import Arrays, RowReader
from .serving import Bundle, default_dtype, load, split

FILE = "model.onnx"
TOLERANCE = 1e-6

_PARTS = ("config.json", "features.json", "weights.pt")
_KEY = "mtl_ref bundle"  # under which the graph names the bundle that it was made from
_STEERING = {"Loop", "Scan", "If"}
_LARGEST = 2**31 - 2**20  # bytes in one file of this format


def export(folder: str | os.PathLike[str], model: nn.Module | None = None) -> Path:
    """Write ``model.onnx`` into a bundle's folder, after checking that it predicts the same.

    The graph and the model score 1,000 made-up rows in batches of several sizes and text lengths, among them
    unknown ids and empty texts. No column may differ by more than 1e-6, or, where its largest value is above
    one, by that share of this value.

    Args:
        folder: Written by ``serving.save``.
        model: For a model of your own class, see ``serving.load``.

    Returns:
        The file.

    Raises:
        FileNotFoundError: If a file of the bundle is missing.
        ValueError: If the folder is no bundle, or its model cannot be exported: its code reads a length or a
            condition from the data, an operation is missing, or the graph predicts something else.
        ImportError: If onnx, onnxscript or onnxruntime is not installed; names the extra.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        need(module, "serving")
    digest = _digest(Path(folder))
    bundle = load(folder, model)
    name = type(bundle.model).__name__
    size = sum(weight.nbytes for weight in bundle.model.state_dict().values())
    if size > _LARGEST:
        raise ValueError(
            f"{name} has {size / 1e9:.1f} GB of weights, one ONNX file holds 2: shrink a vocabulary."
        )
    graph = _Natural(bundle).eval()
    try:
        with default_dtype(bundle.dtype), torch.no_grad(), _quiet():
            columns = list(graph.columns(_example(bundle, 2, 3)))
            proto = _traced(graph, _example(bundle, 3, 4), columns)
    except Exception as error:  # dozens of kinds; the first line of the last one says most
        reason = str(error.__cause__ or error).strip().splitlines()
        raise ValueError(f"{name} cannot be exported to ONNX: {reason[0] if reason else error!r}.") from error
    if steering := _operations(proto) & _STEERING:
        found = ", ".join(sorted(steering))
        raise ValueError(
            f"{name} cannot be exported: its graph needs {found}; let no loop or branch read the data."
        )
    proto.metadata_props.add(key=_KEY, value=digest)
    content = proto.SerializeToString()
    _compare(name, graph, bundle, _open(content, name), columns)
    target = Path(folder, FILE)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".onnx-") as scratch:
        Path(scratch, FILE).write_bytes(content)
        os.replace(Path(scratch, FILE), target)
    return target


class Session:
    """Score raw rows with a bundle's graph, on one thread.

    Predictions are those of ``Bundle.predict`` of the same folder, to 1e-6. The hot path, ``score``, needs
    neither torch nor pandas.

    Args:
        folder: A bundle that ``export`` has completed.

    Attributes:
        features: The features, as fitted.
        columns: Names of the predictions, those of ``Bundle.predict``.
        reader: Reads rows that come as dictionaries.
        dtype: Float type of the model, a NumPy dtype.
        version: Short hash of the bundle's files.

    Raises:
        FileNotFoundError: If a file is missing; says which.
        ValueError: If the graph is damaged, or was exported from other weights or features.
        ImportError: If onnxruntime is not installed; names the extra.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        source = Path(folder, FILE)
        if not source.is_file():
            raise FileNotFoundError(f"{folder} holds no {FILE}: write it with onnx_export.export.")
        digest = _digest(source.parent)
        self.features = Features.load(source.parent / "features.json")
        self._session = _open(source.read_bytes(), str(source))
        if self._session.get_modelmeta().custom_metadata_map.get(_KEY) != digest:
            raise ValueError(f"{source} was made from other files than those beside it: export it again.")
        self.columns = [output.name for output in self._session.get_outputs()]
        self.version = digest[:12]
        self._inputs = [node.name for node in self._session.get_inputs()]
        double = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))["dtype"] == "float64"
        self.dtype = np.dtype(np.float64 if double else np.float32)
        self.reader = RowReader(source.parent / "features.json", self.dtype)

    def predict(self, table: pd.DataFrame, batch_size: int = 8192) -> pd.DataFrame:
        """Score a table: the columns and the index of ``Bundle.predict``.

        Raises:
            KeyError: If a feature column is missing; names it.
        """
        with default_dtype(torch.float64 if self.dtype == np.float64 else torch.float32):
            x = {name: values.numpy() for name, values in self.features.transform(table).items()}
        starts = range(0, max(len(table), 1), batch_size)
        parts = [self.run({name: a[start : start + batch_size] for name, a in x.items()}) for start in starts]
        columns = {name: np.concatenate([part[name] for part in parts]) for name in self.columns}
        return pd.DataFrame(columns, index=table.index)

    def score(self, rows: Sequence[Mapping[str, Any]]) -> Arrays:
        """Score a few rows, given as dictionaries: ``run(encode(rows))``.

        Returns:
            (B,) by prediction, also for no rows.
        """
        return self.run(self.encode(rows))

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> Arrays:
        """Turn rows into arrays, equal to ``Features.transform`` of the same table, without building one.

        Args:
            rows: A value by feature column; None where missing. Other keys are ignored.

        Returns:
            What ``Features.transform`` returns, as NumPy arrays in the type of the model.

        Raises:
            KeyError: If a column is missing; names row and column.
            TypeError: If an id or a text has a type that cannot be read.
            ValueError: If a number is not finite, or too far from training.
        """
        return self.reader.read(rows)

    def run(self, x: Mapping[str, NDArray[Any]]) -> Arrays:
        """Compute the graph on encoded rows; (B,) by prediction."""
        outputs = self._session.run(None, {name: x[name] for name in self._inputs})
        return dict(zip(self.columns, outputs, strict=True))


class _Natural(nn.Module):
    """A bundle's model with its links: inputs to one tensor (B,) per column."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.model, self.tasks = bundle.model, bundle.tasks

    def columns(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        links = {task.name: task.link for task in self.tasks}
        outputs = self.model(x)
        natural = {name: links[name](output) if name in links else output for name, output in outputs.items()}
        return split(self.tasks, natural)

    def forward(self, x: dict[str, Tensor]) -> tuple[Tensor, ...]:
        return tuple(self.columns(x).values())


def _example(bundle: Bundle, rows: int, length: int, seed: int = 0) -> dict[str, Tensor]:
    """Made-up encoded rows: every id, unknown ones too, numbers far and near, texts of all lengths."""
    generator = torch.Generator().manual_seed(seed)
    sizes = bundle.features.sizes
    x: dict[str, Tensor] = {}
    if sizes["categorical"]:
        draws = [torch.randint(0, size, (rows,), generator=generator) for size in sizes["categorical"]]
        x["categorical"] = torch.stack(draws, 1)
    if sizes["numeric"]:
        x["numeric"] = 2 * torch.randn(rows, sizes["numeric"], generator=generator)
    if sizes["text"]:
        words = torch.randint(1, sizes["text"], (rows, length), generator=generator)
        used = torch.randint(0, length + 1, (rows, 1), generator=generator)
        x["text"] = words * (torch.arange(length) < used)
    return x


def _traced(graph: nn.Module, x: dict[str, Tensor], columns: Sequence[str]) -> Any:
    """The graph as an ONNX model whose batch size and text length are free."""
    free = {name: {0: torch.export.Dim.DYNAMIC} for name in x}
    if "text" in x:
        free["text"][1] = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        graph,
        (),
        kwargs={"x": x},
        dynamo=True,
        dynamic_shapes={"x": free},
        input_names=list(x),
        output_names=list(columns),
        external_data=False,
        verbose=False,
        custom_translation_table={
            torch.ops.aten.softplus.default: _softplus,
            torch.ops.aten.scalar_tensor.default: _scalar,
        },
    )
    return program.model_proto if program is not None else None


def _softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """log(1 + exp(x)) from operations that the runtime also has in float64."""
    op = need("onnxscript", "serving").opset18
    factor = op.CastLike(beta, x)
    scaled = op.Mul(x, factor)
    tail = op.Log(op.Add(op.CastLike(1.0, x), op.Exp(op.Neg(op.Abs(scaled)))))
    return op.Div(op.Add(op.Relu(scaled), tail), factor)


def _scalar(value: Any, dtype: int = 1, layout: str = "", device: str = "", pin_memory: bool = False) -> Any:
    """A constant. The exporter's own passes through float32, whatever the type of the model."""
    op = need("onnxscript", "serving").opset18
    if isinstance(value, int | float):
        helper = need("onnx.helper", "serving")
        double: int = need("onnx", "serving").TensorProto.DOUBLE
        value = op.Constant(value=helper.make_tensor("constant", double, [], [value]))
    return op.Cast(value, to=dtype)


def _operations(proto: Any) -> set[str]:
    """Kinds of the nodes of a model and of its functions; a branch's inside need not be looked at."""
    nodes = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    return {node.op_type for node in nodes}


def _open(content: bytes, name: str) -> Any:
    """A session of onnxruntime on one thread, which does not spin while it waits."""
    runtime = need("onnxruntime", "serving")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised
    try:
        return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # a class per status, below no common one
        reason = str(error).splitlines()[0]
        raise ValueError(f"onnxruntime cannot run the graph of {name}: {reason}") from error


def _compare(name: str, graph: _Natural, bundle: Bundle, session: Any, columns: Sequence[str]) -> None:
    """Refuse a graph that predicts something else than its model."""
    longest = bundle.features.text_length
    inputs = [node.name for node in session.get_inputs()]
    scale: dict[str, float] = {}  # a small difference of large numbers keeps the rounding of the large ones
    for rows, length in [(1000, min(longest, 16)), (1, longest), (2, 1), (7, longest + 1), (0, longest)]:
        with default_dtype(bundle.dtype), torch.no_grad():
            x = _example(bundle, rows, length, seed=rows)
            expected = graph.columns(x) if rows else {}
        found = session.run(None, {key: values.numpy() for key, values in x.items() if key in inputs})
        for column, values in zip(columns, found, strict=True):
            target = expected[column].numpy() if rows else np.empty(0)
            allowed = TOLERANCE * scale.setdefault(column, max(1.0, float(np.abs(target).max(initial=0))))
            if values.shape != (rows,) or not np.allclose(
                values, target, rtol=0, atol=allowed, equal_nan=True
            ):
                problem = f"predicts another {column!r} than the model on {rows} rows"
                raise ValueError(f"{name} was exported, but its graph {problem}: nothing was written.")


def _digest(folder: Path) -> str:
    """Hash of the files that decide what a bundle predicts."""
    digest = hashlib.sha256()
    for part in _PARTS:
        if not (folder / part).is_file():
            raise FileNotFoundError(
                f"{folder} is not a bundle: {part} is missing; write one with serving.save."
            )
        digest.update(hashlib.sha256((folder / part).read_bytes()).digest())
    return digest.hexdigest()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks to itself."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
