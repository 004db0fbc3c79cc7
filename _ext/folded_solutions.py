"""Folds the solutions of exercises with ``<details>``: no JavaScript, reachable by keyboard, printed if open.

Applies to every ``{solution}`` and to every ``{solution-start}`` … ``{solution-end}`` pair, whose code
cells run like all others.
"""

from __future__ import annotations

import html

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator
from sphinx_exercise.nodes import solution_node


def visit_solution(self: HTML5Translator, node: solution_node) -> None:
    """Open the box; the title becomes the line that opens it."""
    self.body.append(self.starttag(node, "details", CLASS="mtl-solution"))


def depart_solution(self: HTML5Translator, node: solution_node) -> None:
    """Close the box."""
    self.body.append("</details>\n")


def title_to_summary(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """The title as plain text: a link in the line that opens the box would be a control inside a control."""
    for solution in doctree.findall(solution_node):
        title = solution.children[0]
        if isinstance(title, nodes.title):
            title.replace_self(
                nodes.raw("", f"<summary>{html.escape(title.astext())}</summary>", format="html")
            )


def setup(app: Sphinx) -> dict[str, object]:
    """Replace the HTML writer of solutions."""
    app.setup_extension("sphinx_exercise")
    app.add_node(solution_node, override=True, html=(visit_solution, depart_solution))
    app.connect("doctree-resolved", title_to_summary, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
