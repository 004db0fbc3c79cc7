"""Snapshots of a run that a power cut cannot spoil: written whole or not at all, checked when read."""

from __future__ import annotations

import hashlib
import io
import os
import re
import warnings
from pathlib import Path
from typing import Any

import torch

MAGIC = b"mtl_ref checkpoint 1\n"
KEEP = 2  # the newest and the one before it
_NAME = re.compile(r"step-(\d+)\.checkpoint")


def save(folder: str | os.PathLike[str], step: int, state: dict[str, Any]) -> Path:
    """Write a checkpoint and remove all but the newest two.

    The bytes go to a file of another name first and to the disk, and only then get their name: whoever looks
    sees a whole checkpoint or none. A SHA-256 of the content stands in front of it.

    Args:
        folder: Where checkpoints are; made if missing.
        step: Number of steps done; part of the file's name.
        state: Tensors, numbers, texts, and lists and dictionaries of them.

    Returns:
        The file.

    Raises:
        OSError: If it cannot be written; older checkpoints are then as they were.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    target = place / f"step-{step:012d}.checkpoint"
    partial = target.with_suffix(".partial")
    try:
        with open(partial, "wb") as file:
            file.write(MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n")
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
        _sync_folder(place)
    finally:
        partial.unlink(missing_ok=True)
    for old in found(place)[KEEP:]:
        old.unlink(missing_ok=True)
    return target


def found(folder: str | os.PathLike[str]) -> list[Path]:
    """Checkpoints in a folder, the newest first."""
    place = Path(folder)
    names = sorted((p.name for p in place.glob("step-*") if _NAME.fullmatch(p.name)), reverse=True)
    return [place / name for name in names]


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read one checkpoint. Nothing in it is executed: only tensors and plain data are loaded.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no checkpoint, was cut short or changed.
    """
    content = Path(path).read_bytes()
    head, rest = content[: len(MAGIC) + 65], content[len(MAGIC) + 65 :]
    if not head.startswith(MAGIC):
        raise ValueError(f"{path} is no checkpoint of this version of mtl_ref: remove it.")
    if head[len(MAGIC) :] != hashlib.sha256(rest).hexdigest().encode() + b"\n":
        raise ValueError(f"{path} is damaged or was cut short: remove it, an older checkpoint will be used.")
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(rest), weights_only=True, map_location="cpu")
    except Exception as error:  # a foreign file with a right sum: torch raises a dozen kinds, with bad advice
        raise ValueError(f"{path} holds more than tensors and plain data: remove it.") from error
    return state


def newest(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Read the newest checkpoint that is whole; warn about those that are not.

    Returns:
        Its state, or None where the folder holds no checkpoint.

    Raises:
        ValueError: If there are checkpoints and none is whole.
    """
    problems = []
    for path in found(folder):
        try:
            state = read(path)
        except ValueError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            warnings.warn(f"{problem} Continuing from {path.name}.", stacklevel=3)
        return state
    if problems:
        count = f"found {len(problems)} that are damaged or were cut short"
        raise ValueError(f"no checkpoint in {folder} can be used, {count}: remove them and start anew.")
    return None


def _sync_folder(folder: Path) -> None:
    """Make a new name in a folder survive a power cut, where the system can."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
