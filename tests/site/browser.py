"""What the site tests share: the built site, a local server, and Chromium driven by Playwright."""

from __future__ import annotations

import functools
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

ROOT = Path(__file__).resolve().parents[2]
SITE = Path(os.environ.get("MTL_SITE", ROOT / "_build" / "html"))
TEXT = {".html", ".js", ".css", ".svg", ".json", ".txt", ".ipynb", ".md"}
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"]


def chromium() -> str | None:
    """The browser to drive: CHROMIUM, or the first that is installed."""
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


def launch(playwright: Playwright) -> Browser:
    """Chromium without a window and without talk of its own on the network."""
    return playwright.chromium.launch(executable_path=chromium(), args=FLAGS)


def pages(site: Path) -> list[str]:
    """All pages of the built site, as paths below it; but only one of the copies of source files."""
    inner = ("_static", "_sources", "_images", "_downloads")
    found = sorted(path.relative_to(site) for path in site.rglob("*.html"))
    names = [path.as_posix() for path in found if path.parts[0] not in inner]
    sources = [name for name in names if name.startswith("_modules/mtl_ref/")]
    return [name for name in names if name not in sources[1:]]


class Handler(SimpleHTTPRequestHandler):
    """Serves files without a word."""

    def log_message(self, *words: object) -> None:
        """Stay silent."""


@contextmanager
def serve(site: Path) -> Iterator[str]:
    """The address of a server of the site on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
