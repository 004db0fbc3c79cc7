"""Workers serve on a socket that outlives them; the parent replaces what ends, and ends when told."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import signal
import socket
import threading
import time
import urllib.request

import pytest

from mtl_ref import workers
from mtl_ref.workers import Patience

uvicorn = pytest.importorskip("uvicorn")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX: forks workers")


def app_of(text: str, pause: float = 0.0):
    """A web application that answers with its process and a text."""

    async def app(scope, receive, send) -> None:
        await asyncio.sleep(pause)
        body = f"{os.getpid()} {text}".encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def ask(port: int) -> tuple[int, str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
        process, _, text = answer.read().decode().partition(" ")
    return int(process), text


@pytest.mark.parametrize("by_signal", [True, False])
def test_a_worker_that_leaves_answers_what_it_has_accepted(by_signal) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    lifeline, held = os.pipe()
    reports, report = os.pipe()
    config = uvicorn.Config(app_of("hello", 0.3), log_level="error", lifespan="off", loop="asyncio")
    server = uvicorn.Server(config)
    rest = (listening.dup(), lifeline, report, Patience(idle=0.5))
    if by_signal:
        worker = threading.Thread(target=asyncio.run, args=(workers._serve(server, *rest),))
    else:  # all that a worker's process does
        worker = threading.Thread(target=workers._work, args=(lambda: app_of("hello", 0.3), *rest))
    worker.start()
    assert os.read(reports, 1) == b"r"
    idle = socket.create_connection(("127.0.0.1", port))  # accepted, and has said nothing yet
    answers: list[tuple[int, str]] = []
    asking = threading.Thread(target=lambda: answers.append(ask(port)))
    asking.start()
    time.sleep(0.1)
    if by_signal:
        server.handle_exit(signal.SIGINT, None)  # the parent's matter
        server.handle_exit(signal.SIGTERM, None)
    else:
        os.close(held)
    assert os.read(reports, 1) == b"l"
    idle.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    with idle, idle.makefile("rb") as stream:
        head, _, body = stream.read().partition(b"\r\n\r\n")
    assert b"connection: close" in head and body.endswith(b"hello")
    asking.join(10)
    worker.join(10)
    assert answers == [(os.getpid(), "hello")] and not worker.is_alive()
    gc.unfreeze()
    for end in (reports, report, lifeline, *([held] if by_signal else [])):
        os.close(end)
    # The socket is still open here: who asks now waits for the next worker.
    with socket.create_connection(("127.0.0.1", port), 1):
        listening.close()


def test_the_parent_replaces_workers_and_ends_when_told(capfd) -> None:
    seen: list[int] = []
    problems: list[BaseException] = []
    before = signal.getsignal(signal.SIGTERM)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def outside() -> None:
        try:
            while True:
                try:
                    seen.append(ask(port)[0])
                    break
                except OSError:
                    time.sleep(0.02)
            for number in (signal.SIGTERM, signal.SIGKILL):
                os.kill(old := seen[-1], number)
                deadline = time.monotonic() + 10
                while seen[-1] == old:
                    assert time.monotonic() < deadline, "no worker took over"
                    try:
                        seen.append(ask(port)[0])
                    except OSError:  # a killed worker takes its connection with it
                        time.sleep(0.02)
        except BaseException as error:
            problems.append(error)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    helper = threading.Thread(target=outside)
    helper.start()
    status = workers.serve(lambda: app_of("hello"), port=port, patience=Patience(idle=0.1))
    helper.join(10)
    assert not problems, problems
    assert status == 0 and len(set(seen)) == 3 and signal.getsignal(signal.SIGTERM) is before
    err = capfd.readouterr().err
    assert f"serving on http://127.0.0.1:{port}" in err
    assert "a worker ended with status -9: starting another" in err


@pytest.mark.parametrize(
    "error", [ValueError("config.json is damaged"), AttributeError("a mistake in the code")]
)
def test_workers_that_cannot_start_end_the_parent(capfd, error) -> None:
    def make_app() -> None:
        raise error

    assert workers.serve(make_app, port=0) == 1
    err = capfd.readouterr().err
    assert str(error) in err and len(re.findall("cannot serve", err)) == isinstance(error, ValueError)
