"""A bundle behind HTTP: raw rows in, predictions and orders out, with health, metrics and clear refusals.

``python -m mtl_ref.service FOLDER --port 8000`` serves a folder that ``serving.save`` wrote and
``onnx_export.export`` completed. It speaks plain HTTP, on the loopback address by default: encryption,
identity and slow senders are the task of the proxy in front.

A new model goes live without a pause: write and export its bundle to the same folder, then send SIGTERM to
the workers (the children of the process); their successors read the folder anew.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .fusion import combine
from .monitoring import Metrics
from .onnx_export import Session
from .payloads import ColumnsOf, Limits, Refusal, described, models, parsed, read, valid, with_context
from .reproducible import need
from .rows import Arrays
from .workers import serve

_LOG = logging.getLogger("mtl_ref.service")


def create_app(source: str | os.PathLike[str] | Session, limits: Limits | None = None) -> Any:
    """Build the web application.

    ``POST /predict`` takes ``{"rows": [{column: value, ...}, ...]}``, with every feature column in each row
    and null where a value is missing; it answers ``{"predictions": [{column: number, ...}, ...]}``.
    ``POST /rank`` takes ``candidates`` (rows), and ``value`` or ``powers`` as in ``fusion.combine``, where a
    weight is a number, a list with one number per candidate, or a numeric feature; optionally ``context``, a
    part of the row that all candidates share, and ``k``; it answers ``{"order": [{"candidate": place in the
    request from 0, "score": ..., "predictions": {...}}, ...]}``, best first. ``GET /health`` (the process
    lives), ``GET /ready`` (it can score), ``GET /metrics`` (Prometheus text; of the worker that answers).

    A request that cannot be served is answered with a status and ``{"detail": one sentence}``: 400 (no JSON),
    408 (too slow), 413 (too large), 415 (another content type), 422 (wrong content).

    Args:
        source: A bundle's folder with ``model.onnx``, or an open session.
        limits: See ``Limits``.

    Returns:
        A FastAPI application.

    Raises:
        FileNotFoundError: If a file of the bundle is missing.
        ValueError: If the bundle is damaged.
        ImportError: If fastapi, pydantic or onnxruntime is not installed; names the extra.
    """
    fastapi = need("fastapi", "serving")
    session = source if isinstance(source, Session) else Session(source)
    limits = limits or Limits()
    metrics = Metrics(session.columns, session.features.categorical)
    predict_body, rank_body = models(session.features, limits)
    expected = described(session.features)

    def scored(rows: list[dict[str, Any]]) -> Arrays:
        x = session.encode(rows)
        _check_near(x.get("numeric"), session.features.numeric, limits)
        found = session.run(x)
        _check_finite(found)
        metrics.scored(x, found, len(rows))
        return found

    def predict(body: Any) -> dict[str, Any]:
        rows = valid(predict_body, body, "rows", expected, limits)["rows"]
        return {"predictions": _records(scored(rows))}

    def rank(body: Any) -> dict[str, Any]:
        request = valid(rank_body, with_context(body), "candidates", expected, limits)
        rows = request["candidates"]
        found = scored(rows)
        formula = {name: request[name] for name in ("value", "powers") if request.get(name) is not None}
        score = combine(found, ColumnsOf(rows), **formula)
        order = np.argsort(-score, kind="stable")[: request.get("k")]
        records = _records(found)
        places = [(int(place), float(score[place])) for place in order]
        return {"order": [{"candidate": n, "score": s, "predictions": records[n]} for n, s in places]}

    def answers(name: str, work: Callable[[Any], dict[str, Any]]) -> Callable[[Any], Any]:
        async def endpoint(request: Any) -> Any:
            begin = time.perf_counter()
            status, content = await _answer(request, work, limits)
            metrics.answered(name, status, time.perf_counter() - begin)
            return fastapi.Response(
                json.dumps(content, separators=(",", ":")), status, media_type="application/json"
            )

        endpoint.__annotations__ = {"request": fastapi.Request}  # FastAPI looks for its class here
        endpoint.__name__ = name
        return endpoint

    async def health() -> dict[str, str]:
        return {"status": "alive"}

    async def ready() -> dict[str, Any]:
        return {"status": "ready", "bundle": session.version, "predictions": session.columns}

    async def measured() -> Any:
        return fastapi.Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    app = fastapi.FastAPI(title="mtl_ref", version=session.version, docs_url=None, redoc_url=None)
    for name, work, body in (("predict", predict, predict_body), ("rank", rank, rank_body)):
        content = {"application/json": {"schema": body.json_schema()}}
        extra = {"requestBody": {"required": True, "content": content}}
        app.add_api_route(f"/{name}", answers(name, work), methods=["POST"], openapi_extra=extra)
    for path, get in (("/health", health), ("/ready", ready)):
        app.add_api_route(path, get, methods=["GET"])
    app.add_api_route("/metrics", measured, methods=["GET"], response_class=fastapi.Response)
    session.score([dict.fromkeys(session.reader.columns)])  # the first run allocates: not with a visitor
    return app


async def _answer(
    request: Any, work: Callable[[Any], dict[str, Any]], limits: Limits
) -> tuple[int, dict[str, Any]]:
    """Status and content for a request; never an exception."""
    try:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refusal(415, f"the content type is {kind[:80]!r}: send application/json.")
        return 200, work(parsed(await read(request, limits)))
    except Refusal as refusal:
        return refusal.status, {"detail": str(refusal)}
    except (KeyError, TypeError, ValueError) as error:  # the sentences of encode and combine
        return 422, {"detail": str(error.args[0] if error.args else error)}
    except need("starlette.requests", "serving").ClientDisconnect:
        return 499, {"detail": "the client left."}
    except Exception:
        _LOG.exception("a request failed")
        return 500, {"detail": "the service failed on this request; its log says why."}


def _check_near(numeric: Any, columns: Sequence[str], limits: Limits) -> None:
    if numeric is not None and len(far := np.argwhere(np.abs(numeric) > limits.far)):
        row, place = far[0].tolist()
        problem = f"more than {limits.far:g} standard deviations from training: correct it or send null"
        raise Refusal(422, f"row {row}, column {columns[place]!r} is {problem}.")


def _check_finite(found: Arrays) -> None:
    """JSON has no infinity, and nobody a use for one."""
    for name, values in found.items():
        if len(wrong := np.flatnonzero(~np.isfinite(values))):
            problem = "is not finite: the row is too far from training"
            raise Refusal(422, f"row {int(wrong[0])}: the prediction {name!r} {problem}.")


def _records(found: Arrays) -> list[dict[str, float]]:
    """Predictions by row."""
    lists = [values.tolist() for values in found.values()]
    return [dict(zip(found, row, strict=True)) for row in zip(*lists, strict=True)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; see the head of this file."""
    parser = argparse.ArgumentParser(
        prog="python -m mtl_ref.service", description="Serve a bundle over HTTP."
    )
    parser.add_argument("folder", help="a bundle with model.onnx (serving.save, then onnx_export.export)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0: any free port (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    if chosen.workers < 1:
        parser.error(f"--workers must be at least 1, found {chosen.workers}")
    try:
        for module in ("fastapi", "onnxruntime", "pydantic"):  # before the fork: a successor starts at once
            need(module, "serving")
        return serve(lambda: create_app(chosen.folder), chosen.host, chosen.port, chosen.workers)
    except (ImportError, OSError) as error:
        print(f"cannot serve {chosen.folder}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
