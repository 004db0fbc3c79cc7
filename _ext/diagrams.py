"""Draws ```` ```{mermaid} ```` fences without JavaScript: the committed SVG is put into the page.

The fence stays the source (JupyterLab draws it itself); ``tools/render_diagrams.mjs`` renders every fence
of the book once, to ``_assets/diagrams/NAME.svg``. The SVG carries a fingerprint of its source: a missing
or stale drawing is a warning.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from inline_svg import inline
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

log = logging.getLogger(__name__)


def fingerprint(code: str) -> str:
    """The first twelve hex digits of the source's SHA-1, as tools/render_diagrams.mjs writes it."""
    return hashlib.sha1(code.strip().encode()).hexdigest()[:12]


class Mermaid(SphinxDirective):
    """``{mermaid}`` with ``:name:`` (the SVG's file name and the anchor), ``:alt:`` and ``:caption:``."""

    has_content = True
    option_spec = {
        "name": directives.unchanged_required,
        "alt": directives.unchanged_required,
        "caption": directives.unchanged_required,
    }

    def run(self) -> list[nodes.Node]:
        """A figure that holds the drawing."""
        if "name" not in self.options or "alt" not in self.options:
            raise self.error("a diagram needs :name: and :alt:")
        code, name = "\n".join(self.content), self.options["name"]
        path = Path(self.env.srcdir, "_assets", "diagrams", f"{name}.svg")
        self.env.note_dependency(str(path))
        svg = path.read_text("utf-8") if path.exists() else ""
        if fingerprint(code) not in svg[:200]:
            log.warning(
                "diagram %s is %s: run tools/render_diagrams.mjs",
                name,
                "stale" if svg else "not drawn",
                location=self.get_location(),
                type="mtl",
                subtype="diagram",
            )
        shown = inline(svg, f"{name}-", self.options["alt"], colours=False) if svg else ""
        figure = nodes.figure(classes=["mtl-diagram"])
        figure += nodes.raw("", f'<div class="mtl-scroll">{shown}</div>', format="html")
        if "caption" in self.options:
            words, messages = self.state.inline_text(self.options["caption"], self.lineno)
            figure += nodes.caption("", "", *words, *messages)
        self.add_name(figure)
        return [figure]


def setup(app: Sphinx) -> dict[str, object]:
    """Register the directive."""
    app.add_directive("mermaid", Mermaid)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
