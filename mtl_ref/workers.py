"""Processes that serve a web application on one listening socket, and are replaced without losing a request.

The parent opens the socket and keeps it; workers accept on it. A worker that gets SIGTERM stops accepting,
answers what it has accepted and ends, while its successor takes over the socket: its queue holds what arrives
between the two. SIGTERM or SIGINT to the parent lets the workers finish all that has arrived.
"""

from __future__ import annotations

import asyncio
import gc
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .reproducible import need

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_UNFIT = 3  # exit status of a worker that could not start


@dataclass(frozen=True)
class Patience:
    """How long a leaving worker waits.

    Attributes:
        idle: Seconds that it keeps an idle connection open, for a request that is under way on it.
        drain: Seconds after which it abandons a request that is still unanswered.
    """

    idle: float = 1.0
    drain: float = 30.0


def serve(
    make_app: Callable[[], Any],
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    patience: Patience | None = None,
) -> int:
    """Serve an application until SIGTERM or SIGINT. POSIX only, from the main thread.

    Args:
        make_app: Called once in each worker; returns an ASGI application.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one, which is printed.
        workers: Number of processes.
        patience: See ``Patience``.

    Returns:
        The exit status, 0 after a signal, 1 if ``make_app`` failed.

    Raises:
        OSError: If the address cannot be listened on.
        ImportError: If uvicorn is not installed; names the extra.
    """
    need("uvicorn", "serving")  # imported here, so that a successor need not
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=2048)
    # Connections inherit it. Without it the two parts of an answer wait for one another, 40 ms a request.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print(f"serving on http://{host}:{listening.getsockname()[1]}", file=sys.stderr, flush=True)
    lifeline, held = (
        os.pipe()
    )  # workers hold the reading end: it closes when this process ends, however it does
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    before = [signal.signal(number, lambda *_: None) for number in _SIGNALS]
    signal.set_wakeup_fd(wake)
    running: dict[int, int] = {}  # process by the pipe on which it reports
    status, leaving, proven = 0, False, False

    def start() -> None:
        reports, report = os.pipe()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        if (child := os.fork()) == 0:
            code = 1
            try:
                signal.set_wakeup_fd(-1)
                for number in _SIGNALS:
                    signal.signal(number, signal.SIG_DFL)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
                os.close(held)
                code = _work(make_app, listening, lifeline, report, patience or Patience())
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(code)  # nothing of the parent's may run in a child
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        os.close(report)
        running[reports] = child

    for _ in range(workers):
        start()
    while running:
        for pipe in select.select([woken, *running], [], [])[0]:
            said = os.read(pipe, 1)
            if pipe in running and not said:  # it has ended
                code = os.waitstatus_to_exitcode(os.waitpid(running.pop(pipe), 0)[1])
                os.close(pipe)
                if code > 0 and not proven:
                    status = 1  # it cannot start, and neither could another
                elif code != 0 and not leaving:
                    print(f"a worker ended with status {code}: starting another", file=sys.stderr, flush=True)
                    time.sleep(0.5 if code > 0 else 0.05)  # what cannot live must not keep the machine busy
                    start()
            elif said == b"r":
                proven = True
            elif said == b"l" and not leaving:
                start()  # it is about to end: its successor starts while it still answers
            if (pipe == woken or status) and not leaving:
                leaving = True
                listening.close()
                os.close(held)
    signal.set_wakeup_fd(-1)
    for number, handler in zip(_SIGNALS, before, strict=True):
        signal.signal(number, handler)
    for end in (lifeline, woken, wake):
        os.close(end)
    return status


def _work(
    make_app: Callable[[], Any], listening: socket.socket, lifeline: int, report: int, patience: Patience
) -> int:
    """Serve on an open socket until SIGTERM, or until the parent lets go of the lifeline."""
    try:
        app = make_app()
    except (ImportError, OSError, ValueError) as error:
        print(f"cannot serve: {error}", file=sys.stderr, flush=True)
        return _UNFIT
    gc.collect()
    gc.freeze()  # what is loaded stays: no pause, in the middle of a request, to look through it for garbage
    uvicorn = need("uvicorn", "serving")
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        loop="asyncio",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=patience.drain,
    )
    asyncio.run(_serve(uvicorn.Server(config), listening, lifeline, report, patience))
    return 0


async def _serve(
    server: Any, listening: socket.socket, lifeline: int, report: int, patience: Patience
) -> None:
    loop, told, last = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

    def parent_left() -> None:
        loop.remove_reader(lifeline)
        last.set()
        told.set()

    def on_signal(number: int, _: Any) -> None:  # Ctrl-C reaches the workers, too: the parent's matter
        if number == signal.SIGTERM:
            loop.call_soon_threadsafe(told.set)

    server.handle_exit = on_signal
    loop.add_reader(lifeline, parent_left)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.005)
    os.write(report, b"r")
    await told.wait()
    end = loop.time() + patience.idle
    while last.is_set() and select.select([listening], [], [], 0)[0] and loop.time() < end:
        await asyncio.sleep(0.001)  # nobody comes after: accept what waits in the queue
    # Stop accepting, but leave the socket open: closing it now would drop connections accepted this moment.
    loop.remove_reader(listening.fileno())
    os.write(report, b"l")
    closing = (b"connection", b"close")  # from now on each answer is the last on its connection
    server.config.encoded_headers.append(closing)
    server.server_state.default_headers = [*server.server_state.default_headers, closing]
    await asyncio.sleep(0.02)
    if last.is_set():  # without a successor, newcomers must be refused rather than left waiting
        for accepting in server.servers:
            accepting.close()
    while server.server_state.connections and loop.time() < end:
        await asyncio.sleep(0.01)
    server.should_exit = True
    await serving
