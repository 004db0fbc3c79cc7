"""``{data-cards}`` puts the cards of ``data/cards/`` (one file per data set) on one page, with anchors.

``data/cards/reviews.md`` can be linked to as ``{ref}`data-reviews```; the chapters' headers do so.
"""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def deeper(text: str) -> str:
    """The card with every heading one level down: its own title stands below the page's."""
    parts = re.split(r"^(```.*?^```)", text, flags=re.M | re.S)
    return "".join(
        part if part.startswith("```") else re.sub(r"^#", "##", part, flags=re.M) for part in parts
    )


class DataCards(SphinxDirective):
    """The cards in the order of their names; those named in the argument first."""

    optional_arguments = 20

    def run(self) -> list[nodes.Node]:
        """Parse each card as if it stood here."""
        folder = Path(self.env.srcdir, "data", "cards")
        first = [name for name in self.arguments if (folder / f"{name}.md").exists()]
        rest = sorted(path.stem for path in folder.glob("*.md") if path.stem not in first)
        lines: list[str] = []
        for name in first + rest:
            path = folder / f"{name}.md"
            self.env.note_dependency(str(path))
            text = path.read_text("utf-8")
            lines += ["", f"(data-{name.replace('_', '-')})=", *deeper(text).splitlines()]
        holder = nodes.section()
        self.state.nested_parse(StringList(lines, "data/cards"), 0, holder, match_titles=True)
        return holder.children


def setup(app: Sphinx) -> dict[str, object]:
    """Register the directive."""
    app.add_directive("data-cards", DataCards)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
