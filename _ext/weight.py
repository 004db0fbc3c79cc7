"""Makes pages light: drops what the theme loads twice, and what no page uses.

- The theme draws its icons from a web font and ships a script of 1.5 MB that draws them again; and it loads
  the search index, which grows with the book, on every page, although only the search page reads it.
- Of its style sheets (Bootstrap, all of Font Awesome, a card kit) a book needs a part: a rule whose classes
  stand in no page and in no script is left out.
- The icon font was cut to the icons in use by ``tools/vendor.py``; it stands in the style sheet itself.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path

import tinycss2
from sphinx.application import Sphinx

ICON_SCRIPT = re.compile(r"\s*<script[^>]*scripts/fontawesome\.js[^>]*></script>")
SEARCH_SCRIPT = re.compile(
    r"\s*<script src=\"[^\"]*(?:searchtools|language_data|searchindex)\.js[^>]*></script>"
)
ICON_FONTS = re.compile(r"@font-face\s*\{[^}]*Font Awesome[^}]*\}")
SHEETS = ("styles/pydata-sphinx-theme.css", "styles/sphinx-book-theme.css", "sphinx-design.min.css")


def used_only(css: str, words: set[str]) -> str:
    """The style sheet without the selectors that name a class which is not among the words."""

    def wanted(selector: str) -> bool:
        bare = re.sub(
            r"\((?:[^()]|\([^()]*\))*\)", "", selector
        )  # what stands in :not(), :is(), :has() may be absent
        return all(name in words for name in re.findall(r"\.([A-Za-z_][\w-]*)", bare))

    kept = []
    for rule in tinycss2.parse_stylesheet(css, skip_comments=True, skip_whitespace=True):
        if rule.type == "qualified-rule":
            selectors = re.split(r",(?![^(]*\))", tinycss2.serialize(rule.prelude))
            if found := [one.strip() for one in selectors if wanted(one)]:
                kept.append(f"{','.join(found)}{{{tinycss2.serialize(rule.content)}}}")
        elif rule.type == "at-rule" and rule.lower_at_keyword in ("media", "supports") and rule.content:
            if inner := used_only(tinycss2.serialize(rule.content), words):
                kept.append(f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{{inner}}}")
        else:
            kept.append(rule.serialize())
    return "".join(kept)


def lighten(app: Sphinx, failed: Exception | None) -> None:
    """Rewrite the pages and the theme's files in the built site."""
    if failed or app.builder.name != "html":
        return
    out, static = Path(app.outdir), Path(app.outdir, "_static")
    for unused in [
        *static.rglob("*.map"),
        *static.glob("scripts/fontawesome*"),
        *static.glob("images/logo_*"),
    ]:
        unused.unlink(missing_ok=True)
    words: set[str] = set()
    for page in out.rglob("*.html"):
        old = page.read_text("utf-8")
        new = ICON_SCRIPT.sub("", old)
        if page.name != "search.html":
            new = SEARCH_SCRIPT.sub("", new)
        if new != old:
            page.write_text(new, "utf-8")
        words.update(
            name for _, names in re.findall(r"""class=(["'])(.*?)\1""", new) for name in names.split()
        )
    for script in static.rglob("*.js"):
        if "mathjax" not in script.parts:
            words.update(re.findall(r"[\w-]+", script.read_text("utf-8")))
    for name in SHEETS:
        for sheet in static.glob(name):
            sheet.write_text(used_only(sheet.read_text("utf-8"), words), "utf-8")
    font = Path(app.srcdir, "_assets/vendor/icons/fa-solid-900.woff2").read_bytes()
    face = '@font-face{font-family:"Font Awesome 6 Free";font-weight:900;font-display:block;'
    face += "src:url(data:font/woff2;base64,"
    sheet = static / SHEETS[0]
    css = ICON_FONTS.sub("", sheet.read_text("utf-8"))
    sheet.write_text(f'{face}{base64.b64encode(font).decode()}) format("woff2")}}{css}', "utf-8")
    for leftover in (static / "vendor/fontawesome").rglob("*.*"):
        leftover.unlink()


def setup(app: Sphinx) -> dict[str, object]:
    """Connect the handler; last, so that it sees the pages as they stay."""
    app.connect("build-finished", lighten, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
