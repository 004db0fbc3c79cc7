"""Mends what axe-core finds in the HTML of the theme, MyST-NB, sphinx-exercise and pandas.

Each line of ``FIXES`` is one finding: a pattern in the written page and what stands there instead. The work
is idempotent, so that an incremental build may meet a mended page again.
"""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

FIXES = [
    # Accessible names that differ from the visible text.
    (r'(<summary) aria-label="Toggle hidden content"', r"\1"),
    (r'(<button class="btn search-button-field[^>]*?) aria-label="[^"]*"', r"\1"),
    (r'(<button class="btn btn-sm nav-link[^>]*?theme-switch-button[^>]*?) aria-label="[^"]*"', r"\1"),
    # The search button is not inside any landmark.
    (
        r'<div class="(sidebar-primary-items__start sidebar-primary__section)"',
        r'<div role="search" aria-label="Search" class="\1"',
    ),
    # The arrow that unfolds a page's subpages has no name.
    (
        r'(<a class="[^"]*" href="[^"]*">([^<]+)</a><details[^>]*><summary)><span class="toctree-toggle"',
        r'\1 aria-label="Pages of: \2"><span class="toctree-toggle"',
    ),
    # docutils: two roles that ARIA has given up, and a list without list items.
    (r' role="doc-biblioentry"', ""),
    (r'<div role="list" class="citation-list">', '<div class="citation-list">'),
    # pandas: an empty header cell above the index.
    (r'<th((?: class="[^"]*")?)>(?:<p></p>)?</th>', r"<td\1></td>"),
    # sphinx-exercise: every exercise and solution repeats the same id.
    (r'<section id="(?:exercise|solution)-content">', r'<section class="mtl-exercise-content">'),
]


def mend(app: Sphinx, failed: Exception | None) -> None:
    """Apply the list to every page that was written."""
    if failed or app.builder.name != "html":
        return
    for page in Path(app.outdir).rglob("*.html"):
        old = new = page.read_text("utf-8")
        for pattern, replacement in FIXES:
            new = re.sub(pattern, replacement, new)
        if new != old:
            page.write_text(new, "utf-8")


def setup(app: Sphinx) -> dict[str, object]:
    """Connect the handler."""
    app.connect("build-finished", mend)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
