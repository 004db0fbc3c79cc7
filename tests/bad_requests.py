"""Requests that the service refuses and what it answers: the end of *Errors you may see*, as data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mtl_ref import serving
from mtl_ref.encoders import TabularEncoder
from mtl_ref.features import Features
from mtl_ref.models import SharedEncoder
from mtl_ref.onnx_export import export
from mtl_ref.payloads import Limits
from mtl_ref.tasks import Binary, Multiclass, Regression

JSON = {"content-type": "application/json"}
ROW = {"item id": "scarf", "age": 40, "note": "a warm scarf"}
LIMITS = Limits(rows=50, text=100, body=20_000)


def table(n: int = 40, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "item id": rng.choice(["scarf", "coat", "tin"], n),
            "age": rng.integers(18, 80, n),
            "note": rng.choice(["too small", "lovely tea", ""], n),
            "price": rng.gamma(2, 10, n),
            "bought": rng.integers(0, 2, n),
            "kind": rng.choice(["x", 'say "y"\n'], n),
        }
    )


def bundle(target: Path) -> Path:
    """Save a bundle that the service can serve."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    rows = table()
    features = Features(categorical=["item id"], numeric=["age"], text=["note"], text_length=5).fit(rows)
    tasks = [Regression("price").fit(rows), Binary("bought").fit(rows)]
    tasks += [Multiclass("kind", classes=("x", 'say "y"\n')).fit(rows)]
    serving.save(target, SharedEncoder(TabularEncoder(features.sizes, 4, (8,)), tasks), features, tasks)
    export(target)
    torch.set_default_dtype(before)
    return target


@contextmanager
def served(folder: Path) -> Iterator[Any]:
    """A client of the service, in one process."""
    from fastapi.testclient import TestClient

    from mtl_ref import service

    with TestClient(service.create_app(folder, LIMITS), raise_server_exceptions=False) as client:
        yield client


def refused(client: Any, where: str, body: str | bytes) -> tuple[int, str]:
    """Status and sentence of an answer."""
    answer = client.post(f"/{where}", content=body, headers=JSON)
    return answer.status_code, answer.json()["detail"]


def rows(**change) -> str:
    return json.dumps({"rows": [ROW, ROW | change]})


def ranked(**more) -> str:
    return json.dumps({"candidates": [ROW]} | more)


BAD = [  # where, body, status, what the sentence says
    ("predict", "", 400, "no JSON: Expecting value"),
    ("predict", "{", 400, "no JSON: Expecting property name"),
    ("predict", b'{"rows": "\xff"}', 400, "not UTF-8"),
    ("predict", "[" * 15_000, 400, "nested too deeply"),
    ("predict", '{"rows": [{"age": NaN}]}', 400, "holds NaN, which is no JSON"),
    ("predict", '{"rows": [{"age": -Infinity}]}', 400, "holds -Infinity"),
    ("predict", '{"rows": [], "rows": []}', 400, "'rows' occurs twice"),
    ("predict", '{"rows": [{"age": %s}]}' % ("1" * 5000), 400, "integer of thousands of digits"),
    ("predict", "3", 422, "the body holds 3: it must be a valid object"),
    ("predict", "{}", 422, "'rows' is missing"),
    ("predict", '{"rows": {}}', 422, "'rows' holds {}: it must be a valid list"),
    ("predict", '{"rows": [], "more": 1}', 422, "'more' is not known"),
    ("predict", '{"rows": [[]]}', 422, "row 0 holds []: it must be a valid object"),
    ("predict", json.dumps({"rows": [ROW] * 51}), 413, "51 rows: send at most 50"),
    ("predict", " " * 20_001, 413, "longer than 20000 bytes"),
    ("predict", '{"rows": [{"item id": "a", "age": 1}]}', 422, "row 0, column 'note' is missing"),
    ("predict", rows(colour="red"), 422, "row 1, column 'colour' is not known"),
    ("predict", rows(age="forty"), 422, "row 1, column 'age' holds 'forty': it must be a finite number"),
    ("predict", rows(age=[1]), 422, "row 1, column 'age' holds [1]: it must be a finite number"),
    ("predict", rows().replace("40", "1e999"), 422, "row 0, column 'age' holds inf: it must be a finite"),
    ("predict", rows().replace("40", "9" * 400), 422, "row 0, column 'age' holds 999"),
    ("predict", rows(age=1e300), 422, "row 1, column 'age' is more than 1e+06 standard deviations"),
    ("predict", rows(note=7), 422, "row 1, column 'note' holds 7: it must be text or null"),
    ("predict", rows(note="x" * 101), 422, "row 1, column 'note' is longer than 100 characters"),
    ("predict", rows(note="\ud800"), 422, "row 1, column 'note' holds '\\ud800': it must be text"),
    ("predict", rows(**{"item id": {}}), 422, "row 1, column 'item id' holds {}: it must be text"),
    ("predict", rows(**{"item id": 1e30}), 422, "may have lost digits"),
    ("predict", rows(note=json.loads("[" * 200 + "]" * 200)), 422, "row 1, column 'note' holds [[[[[["),
    ("rank", "[]", 422, "the body holds []"),
    ("rank", ranked(), 422, "exactly one of value, powers"),
    ("rank", ranked(value={"bought": 1}, powers={"bought": 1}), 422, "exactly one of value, powers"),
    ("rank", ranked(value={"fame": 1}), 422, "objective 'fame' is not predicted"),
    ("rank", ranked(value={"bought": "margin"}), 422, "objective 'bought': its weight 'margin' is no column"),
    ("rank", ranked(value={"bought": [1, 2]}), 422, "one number or (1,) numbers"),
    ("rank", ranked(value={"bought": "note"}), 422, "its weight 'note' is not made of numbers"),
    ("rank", ranked(value={"bought": True}), 422, "'value' holds True"),
    ("rank", ranked(powers={"bought": "x"}), 422, "'powers' holds 'x'"),
    ("rank", ranked(powers={"bought": -1e9}), 422, "objective 'bought' to the power of"),
    ("rank", ranked(value={"bought": 1}, k=0), 422, "'k' holds 0: it must be greater than"),
    ("rank", ranked(value={"bought": 1}, context=3), 422, "context must be an object"),
    ("rank", ranked(value={"bought": 1}, context={"age": 3}), 422, "'age' is in context and in candidate 0"),
    ("rank", '{"context": {}, "candidates": 7}', 422, "'candidates' holds 7"),
]
