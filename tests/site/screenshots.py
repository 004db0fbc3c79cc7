"""Pictures of the built site for a person to look at: both themes, 1280 and 390 pixels wide.

python tests/site/screenshots.py OUT_DIR [page.html ...]
"""

from __future__ import annotations

import sys
from pathlib import Path

from browser import SITE, launch, pages, serve
from playwright.sync_api import sync_playwright

SCROLL = """async () => { for (let y = 0; y < document.body.scrollHeight; y += 600) {
    scrollTo(0, y); await new Promise(done => setTimeout(done, 20)); } scrollTo(0, 0); }"""


def main(folder: Path, wanted: list[str]) -> None:
    """Write NAME_THEME_WIDTH.png for every page."""
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright, serve(SITE) as address:
        browser = launch(playwright)
        for page_name in wanted or pages(SITE):
            for theme in ("light", "dark"):
                for width in (1280, 390):
                    context = browser.new_context(
                        color_scheme=theme,
                        viewport={"width": width, "height": 844},
                        device_scale_factor=2 if width < 500 else 1,
                        is_mobile=width < 500,
                    )
                    page = context.new_page()
                    page.goto(address + page_name, wait_until="load")
                    page.evaluate(SCROLL)
                    page.wait_for_timeout(300)
                    name = page_name.removesuffix(".html").replace("/", "_")
                    page.screenshot(path=folder / f"{name}_{theme}_{width}.png", full_page=True)
                    context.close()
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
