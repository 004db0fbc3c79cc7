"""Parquet files a part at a time: raw tables, row groups as arrays, and errors that name the file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from numpy.typing import NDArray

from .reproducible import need

Arrays = dict[str, NDArray[Any]]

GROUP = 16_384  # rows that are written and decoded at a time
_MARK = "mtl_ref"  # the entry of a file's metadata that says what it is


class Contents(NamedTuple):
    """What the end of a file says: its mark, types by column name, and rows of each row group."""

    about: dict[str, Any]
    columns: dict[str, str]
    groups: list[int]


def tables(
    source: str | os.PathLike[str], columns: Sequence[str] | None = None, rows: int = 65_536
) -> Iterator[pd.DataFrame]:
    """Read raw Parquet files a part at a time.

    Args:
        source: A Parquet file, or a folder whose ``*.parquet`` files are read in the order of their names.
        columns: What to read; all columns by default.
        rows: Most rows in a part.

    Yields:
        The rows in their order.

    Raises:
        FileNotFoundError: If there is no such file, or none in the folder.
        KeyError: If a file lacks a column.
        ValueError: If a file is damaged or not a Parquet file.
    """
    parquet = need("pyarrow.parquet", "data")
    files = sorted(Path(source).glob("*.parquet")) if Path(source).is_dir() else [Path(source)]
    if not files:
        raise FileNotFoundError(f"{source} holds no .parquet file: give the folder of the raw tables.")
    small = {"buffer_size": 1 << 20, "pre_buffer": False}  # else a row group is held whole, and may be a file
    for path in files:
        with _reading(path), parquet.ParquetFile(path, **small) as file:
            known = file.schema_arrow.names
            for column in columns or ():
                if column not in known:
                    raise KeyError(f"{path} has no column {column!r}; it has {known[:12]}.")
            for part in file.iter_batches(rows, columns=columns, use_threads=False):
                yield part.to_pandas(ignore_metadata=True)  # else a stored range index starts anew each time


def write_file(path: Path, groups: Iterable[Arrays], about: dict[str, Any]) -> int:
    """Write arrays, (rows,) or (rows, K), as one file; each member of ``groups`` becomes a row group.

    Args:
        path: The file.
        groups: Arrays by column name, at least one member, all of the same columns and types.
        about: What the file is, kept in its metadata.

    Returns:
        Number of rows.
    """
    arrow, parquet = need("pyarrow", "data"), need("pyarrow.parquet", "data")
    options: dict[str, Any] = {"compression": "lz4", "use_dictionary": False, "write_statistics": False}
    options["write_page_checksum"] = True  # a flipped bit is an error, not a number
    file, rows = None, 0
    try:
        for group in groups:
            columns = {}
            for name, values in group.items():
                column = arrow.array(values.ravel())
                wide = values.ndim == 2
                fixed = arrow.FixedSizeListArray.from_arrays
                columns[name] = fixed(column, values.shape[1]) if wide else column
            table = arrow.table(columns, metadata={_MARK: json.dumps(about)})
            file = file or parquet.ParquetWriter(path, table.schema, **options)
            file.write_table(table)
            rows += table.num_rows
    finally:
        if file is not None:
            file.close()
    return rows


def inspect_file(path: Path) -> Contents:
    """Read the end of a file, not its rows.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is damaged or no Parquet file.
    """
    parquet = need("pyarrow.parquet", "data")
    with _reading(path):
        metadata = parquet.read_metadata(path)
        schema = metadata.schema.to_arrow_schema()
    try:
        about = json.loads((schema.metadata or {})[_MARK.encode()])
    except (KeyError, ValueError, RecursionError):
        about = None
    columns = {field.name: str(field.type) for field in schema}
    groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return Contents(about if isinstance(about, dict) else {}, columns, groups)


def read_group(path: Path, group: int) -> Arrays:
    """Decode one row group of a file that ``write_file`` wrote.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is damaged.
    """
    arrow, parquet = need("pyarrow", "data"), need("pyarrow.parquet", "data")
    arrays = {}
    with _reading(path), parquet.ParquetFile(path, page_checksum_verification=True) as file:
        table = file.read_row_group(group, use_threads=False)
        for name, column in zip(table.column_names, table.columns, strict=True):
            array = arrow.concat_arrays(column.chunks)
            wide = arrow.types.is_fixed_size_list(array.type)
            values = (array.flatten() if wide else array).to_numpy()
            arrays[name] = values.reshape(-1, array.type.list_size) if wide else values
    return arrays


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say which file is missing or damaged."""
    arrow = need("pyarrow", "data")
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: put it back or write the folder again.") from None
    except (
        arrow.ArrowException,
        OSError,
        ValueError,
        MemoryError,
    ) as error:  # a damaged end raises any of them
        reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        raise ValueError(f"{path} is damaged or no Parquet file ({reason}): write it again.") from error
