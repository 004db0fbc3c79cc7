"""Over HTTP a row scores as in the notebook; what is wrong gets one sentence; a restart loses no request."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mtl_ref import service, serving
from mtl_ref.encoders import TabularEncoder
from mtl_ref.features import Features
from mtl_ref.fusion import rank
from mtl_ref.models import SharedEncoder
from mtl_ref.monitoring import Metrics
from mtl_ref.onnx_export import Session, export
from mtl_ref.payloads import Limits
from mtl_ref.tasks import Binary, Multiclass, Regression

for module in ("fastapi", "uvicorn", "onnxscript", "onnxruntime"):
    pytest.importorskip(module)
httpx = pytest.importorskip("httpx")
pytestmark = pytest.mark.filterwarnings("ignore:Using `httpx`")

JSON = {"content-type": "application/json"}
ROW = {"item id": "scarf", "age": 40, "note": "a warm scarf"}


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


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    rows = table()
    features = Features(categorical=["item id"], numeric=["age"], text=["note"], text_length=5).fit(rows)
    tasks = [Regression("price").fit(rows), Binary("bought").fit(rows)]
    tasks += [Multiclass("kind", classes=("x", 'say "y"\n')).fit(rows)]
    target = tmp_path_factory.mktemp("service") / "shop"
    serving.save(target, SharedEncoder(TabularEncoder(features.sizes, 4, (8,)), tasks), features, tasks)
    export(target)
    torch.set_default_dtype(before)
    return target


@pytest.fixture(scope="module")
def client(folder):
    from fastapi.testclient import TestClient

    limits = Limits(rows=50, text=100, body=20_000)
    with TestClient(service.create_app(folder, limits), raise_server_exceptions=False) as client:
        yield client


def test_predictions_over_http_are_those_of_the_notebook(folder, client) -> None:
    new = table(30, seed=1)
    new.loc[3, "item id"] = "never seen"
    new["age"] = new["age"].astype(object)
    new.loc[[4, 5], "age"] = [None, True]
    new.loc[6, "note"] = None
    expected = serving.load(folder).predict(new)
    known = new[["item id", "age", "note"]].astype(object)
    rows = known.where(known.notna(), None).to_dict("records")
    found = client.post("/predict", json={"rows": rows})
    assert found.status_code == 200
    found = pd.DataFrame(found.json()["predictions"])
    assert list(found) == list(expected) and np.allclose(found, expected, rtol=1e-9, atol=1e-12)
    alone = client.post("/predict", json={"rows": rows[3:4]}).json()["predictions"][0]
    assert np.allclose(list(alone.values()), expected.loc[3], rtol=1e-9)
    assert client.post("/predict", json={"rows": []}).json() == {"predictions": []}


def test_orders_over_http_are_those_of_the_notebook(folder, client) -> None:
    new = table(9, seed=2)
    scored = serving.load(folder).predict(new)
    rows = new[["item id", "age", "note"]].to_dict("records")
    margins = [1.0, 2.0, 3.0] * 3
    for formula, expected in (
        ({"value": {"bought": margins, "kind_x": -0.5}}, {"value": {"bought": "margin", "kind_x": -0.5}}),
        ({"value": {"bought": "age"}}, {"value": {"bought": "age"}}),
        ({"powers": {"bought": 1, "price": 0.25}}, {"powers": {"bought": 1, "price": 0.25}}),
    ):
        answer = client.post("/rank", json={"candidates": rows, "k": 4, **formula})
        order = answer.json()["order"]
        best = rank(scored, new.assign(margin=margins), k=4, **expected)
        assert [entry["candidate"] for entry in order] == list(best.index)
        assert np.allclose([entry["score"] for entry in order], best["score"], rtol=1e-9)
        assert np.isclose(order[0]["predictions"]["bought"], scored["bought"][best.index[0]], rtol=1e-9)


def test_what_all_candidates_share_is_sent_once(client) -> None:
    context, own = {"age": 33, "note": ""}, [{"item id": "tin"}, {"item id": "coat"}]
    formula = {"value": {"bought": 1.0}}
    short = client.post("/rank", json={"context": context, "candidates": own, **formula}).json()
    long = client.post("/rank", json={"candidates": [context | row for row in own], **formula}).json()
    assert short == long and len(short["order"]) == 2
    assert client.post("/rank", json={"candidates": [], **formula}).json() == {"order": []}


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


@pytest.mark.parametrize("where,body,status,sentence", BAD, ids=[str(n) for n in range(len(BAD))])
def test_a_bad_request_gets_one_clear_sentence(client, where, body, status, sentence) -> None:
    answer = client.post(f"/{where}", content=body, headers=JSON)
    detail = answer.json()["detail"]
    assert (answer.status_code, sentence in detail) == (status, True), detail
    assert "\n" not in detail and "Traceback" not in detail and len(detail) < 300
    assert client.post("/predict", json={"rows": [ROW]}).status_code == 200  # and the service goes on


def test_other_content_types_paths_and_methods_are_refused(client) -> None:
    assert client.post("/predict", content=rows(), headers={"content-type": "text/xml"}).status_code == 415
    assert "send application/json" in client.post("/predict", content=rows()).json()["detail"]
    assert client.post(
        "/predict", content=rows(), headers={"content-type": "application/json; charset=utf-8"}
    )
    assert client.get("/predict").status_code == 405
    assert client.get("/nothing").status_code == 404


def test_a_fault_of_the_service_shows_no_trace(folder, caplog) -> None:
    from fastapi.testclient import TestClient

    session = Session(folder)
    app = service.create_app(session)
    session.run = lambda x: 1 / 0
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.post("/predict", json={"rows": [ROW]})
        assert answer.status_code == 500 and "its log says why" in answer.json()["detail"]
        session.run = lambda x: {"price": np.array([np.inf])}
        answer = client.post("/predict", json={"rows": [ROW]})
        assert answer.status_code == 422 and "row 0: the prediction 'price' is not finite" in answer.text
    assert "ZeroDivisionError" in caplog.text


def test_health_readiness_and_the_schema(folder, client) -> None:
    assert client.get("/health").json() == {"status": "alive"}
    ready = client.get("/ready").json()
    assert ready["status"] == "ready" and ready["predictions"] == Session(folder).columns
    paths = client.get("/openapi.json").json()["paths"]
    schema = paths["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(schema["$defs"]["Row"]["required"]) == set(ROW)


SAMPLE = re.compile(r'[a-z_]+(\{([a-z]+="(\\.|[^"\\])*"(,|(?=\})))+\})? -?([0-9.e+-]+|inf)')


def test_metrics_are_prometheus_text_and_count_what_happened(folder) -> None:
    from fastapi.testclient import TestClient

    with TestClient(service.create_app(folder)) as client:
        good = client.post("/predict", json={"rows": [ROW, ROW | {"item id": "never seen"}]}).json()
        client.post("/predict", content="{", headers=JSON)
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    assert all(line.startswith(("# HELP ", "# TYPE ")) or SAMPLE.fullmatch(line) for line in lines)
    assert 'mtl_requests_total{endpoint="predict",status="200"} 1' in lines
    assert 'mtl_errors_total{endpoint="predict",status="400"} 1' in lines
    assert 'mtl_request_seconds_count{endpoint="predict"} 2' in lines
    assert 'mtl_request_seconds_bucket{endpoint="predict",le="+Inf"} 2' in lines
    assert "mtl_rows_total 2" in lines
    assert 'mtl_unknown_id_share{column="item id"} 0.5' in lines
    samples = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    mean = np.mean([row["bought"] for row in good["predictions"]])
    assert np.isclose(float(samples['mtl_prediction_mean{prediction="bought"}']), mean, rtol=1e-9)
    assert 'mtl_prediction_mean{prediction="kind_say \\"y\\"\\n"}' in samples


def test_slow_answers_fall_into_the_last_bucket() -> None:
    metrics = Metrics(["p"], [])
    metrics.answered("rank", 200, 0.004)
    metrics.answered("rank", 200, 7.0)
    text = metrics.text()
    assert 'mtl_request_seconds_bucket{endpoint="rank",le="0.005"} 1\n' in text
    assert 'mtl_request_seconds_bucket{endpoint="rank",le="1.0"} 1\n' in text
    assert 'mtl_request_seconds_bucket{endpoint="rank",le="+Inf"} 2\n' in text


# --- A process of its own -----------------------------------------------------------------------------------


class Server:
    """``python -m mtl_ref.service`` on a free port of the loopback address."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
        command = [sys.executable, "-m", "mtl_ref.service", str(folder), "--port", "0", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=variables)
        first = self.process.stderr.readline()
        self.port = int(first.rsplit(":", 1)[1]) if "http://" in first else None
        self.first = first

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self.process.stderr.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def workers(self) -> list[int]:
        """The parent's children, the youngest last."""
        return [
            int(child)
            for child in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
            .read_text()
            .split()
        ]

    def stop_worker(self, number: int, seen: set[int]) -> None:
        """Send a signal to the youngest worker and wait until there is another."""
        worker = self.workers()[-1]
        seen.add(worker)
        os.kill(worker, number)
        deadline = time.monotonic() + 30
        while not set(self.workers()) - seen:
            assert time.monotonic() < deadline, "no worker took over"
            time.sleep(0.01)


def visit(server: Server, body: str, keep_alive: bool, answers: list, errors: list) -> None:
    """Ask 24 times; whatever is raised is a lost request."""
    limits = httpx.Limits(max_keepalive_connections=4 if keep_alive else 0)
    with httpx.Client(limits=limits, timeout=30, headers=JSON) as client:
        for _ in range(24):
            try:
                answers.append(client.post(f"{server.url}/predict", content=body).json())
            except Exception as error:
                errors.append(error)
            time.sleep(0.03)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux: reads /proc for the workers")
def test_no_request_is_lost_when_workers_are_replaced_under_load(folder) -> None:
    with Server(folder) as server:
        body, answers, errors, seen = json.dumps({"rows": [ROW] * 20}), [], [], set()
        expected = httpx.post(f"{server.url}/predict", content=body, headers=JSON, timeout=30).json()
        visitors = [
            threading.Thread(target=visit, args=(server, body, n % 2 == 0, answers, errors)) for n in range(8)
        ]
        for thread in visitors:
            thread.start()
        for _ in range(2):  # the second may hit a worker that is only starting: that loses nothing either
            time.sleep(0.4)
            server.stop_worker(signal.SIGTERM, seen)
        for thread in visitors:
            thread.join(60)
        assert not errors and len(answers) == 8 * 24 and all(answer == expected for answer in answers)
        # A worker that dies at once takes its requests with it, but another follows.
        server.stop_worker(signal.SIGKILL, seen)
        assert httpx.get(f"{server.url}/ready", timeout=30).status_code == 200
        # A request whose body is under way when the parent is told to stop is answered, then all ends.
        with socket.create_connection(("127.0.0.1", server.port), 10) as slow:
            body = rows().encode()
            lines = ("POST /predict HTTP/1.1", "Host: x", "Content-Type: application/json")
            head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
            slow.sendall(head.encode() + body[:10])
            time.sleep(0.2)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            slow.sendall(body[10:])
            answer = slow.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200") and b'"predictions"' in answer
        assert server.process.wait(20) == 0
        assert "Traceback" not in server.process.stderr.read()
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", server.port), 1)


def test_a_folder_that_cannot_be_served_ends_with_one_sentence(tmp_path) -> None:
    with Server(tmp_path / "nothing") as server:
        assert server.process.wait(20) == 1
        assert "holds no model.onnx: write it with onnx_export.export" in server.process.stderr.read()


def test_a_wrong_command_line_is_refused(folder, capsys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert service.main([str(folder), "--port", str(taken.getsockname()[1])]) == 1
    assert "Address already in use" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        service.main([str(folder), "--workers", "0"])
    assert "--workers must be at least 1, found 0" in capsys.readouterr().err
