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

from mtl_ref import service, serving
from mtl_ref.fusion import rank
from mtl_ref.monitoring import Metrics
from mtl_ref.onnx_export import Session

sys.path.insert(0, str(Path(__file__).parent))  # the requests stand beside the tests
from bad_requests import BAD, JSON, ROW, bundle, refused, rows, served, table  # noqa: E402

for module in ("fastapi", "uvicorn", "onnxscript", "onnxruntime"):
    pytest.importorskip(module)
httpx = pytest.importorskip("httpx")
pytestmark = pytest.mark.filterwarnings("ignore:Using `httpx`")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return bundle(tmp_path_factory.mktemp("service") / "shop")


@pytest.fixture(scope="module")
def client(folder):
    with served(folder) as client:
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


@pytest.mark.parametrize("where,body,status,sentence", BAD, ids=[str(n) for n in range(len(BAD))])
def test_a_bad_request_gets_one_clear_sentence(client, where, body, status, sentence) -> None:
    found, detail = refused(client, where, body)
    assert (found, sentence in detail) == (status, True), detail
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
