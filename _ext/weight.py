"""Makes pages light: drops what the theme loads twice and cuts its icon font down to the icons in use.

The theme draws its icons from a style sheet with a web font *and* ships a script of 1.5 MB that draws them
again; it offers all of Font Awesome where a book needs a dozen icons. The font was cut once, by
``tools/vendor.py``, to ``_assets/vendor/icons``; here the copies in the built site are replaced.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from sphinx.application import Sphinx

SCRIPT = re.compile(
    r"\s*<!-- So that users can add custom icons -->\s*<script[^>]*fontawesome\.js[^>]*></script>"
)
ICON_RULE = re.compile(r"(?:\.fa-[\w-]+:before,?)+\{content:\"\\f[0-9a-f]+\"\}")
ICONS = """arrow-up bars magnifying-glass sun moon circle-half-stroke list download file file-code file-pdf
angle-left angle-right angle-down angle-up chevron-right chevron-down chevron-up expand circle-info
triangle-exclamation circle-exclamation lightbulb pencil circle-check xmark copy check link outdent indent""".split()


def slim_styles(css: str) -> str:
    """Drop the style rules of icons that no page uses."""

    def keep(match: re.Match[str]) -> str:
        names = re.findall(r"\.fa-([\w-]+)", match[0])
        return match[0] if any(name in ICONS for name in names) else ""

    return ICON_RULE.sub(keep, css)


def lighten(app: Sphinx, failed: Exception | None) -> None:
    """Rewrite the theme's files in the built site."""
    if failed or app.builder.name != "html":
        return
    static = Path(app.outdir, "_static")
    for page in Path(app.outdir).rglob("*.html"):
        old = page.read_text("utf-8")
        new = SCRIPT.sub("", old)
        if new != old:
            page.write_text(new, "utf-8")
    for unused in [
        *static.glob("scripts/fontawesome*"),
        *static.rglob("*.map"),
        *static.glob("images/logo_*"),
    ]:
        unused.unlink(missing_ok=True)
    webfonts = static / "vendor/fontawesome/webfonts"
    for font in webfonts.glob("*"):
        font.unlink()
    shutil.copy(Path(app.srcdir, "_assets/vendor/icons/fa-solid-900.woff2"), webfonts)
    sheet = static / "styles/pydata-sphinx-theme.css"
    sheet.write_text(slim_styles(sheet.read_text("utf-8")), "utf-8")


def setup(app: Sphinx) -> dict[str, object]:
    """Connect the handler."""
    app.connect("build-finished", lighten)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
