"""What several of the book's extensions need to know about a page: its place in the book and its notebook."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from docutils import nodes
from sphinx.environment import BuildEnvironment


def pages_in_order(env: BuildEnvironment) -> list[str]:
    """All pages in the order of the table of contents."""
    site_map = env.config.external_site_map
    order: list[str] = []

    def walk(name: str) -> None:
        order.append(name)
        for tree in site_map[name].subtrees:
            for item in tree.items:
                if str(item) in site_map:
                    walk(str(item))

    walk(site_map.root.docname)
    return order


def part_of(env: BuildEnvironment, page: str) -> str:
    """The caption of the part that holds a page; empty for the landing page."""
    site_map = env.config.external_site_map

    def holds(name: str) -> bool:
        trees = site_map[name].subtrees if name in site_map else []
        return name == page or any(holds(str(item)) for tree in trees for item in tree.items)

    for tree in site_map.root.subtrees:
        if any(holds(str(item)) for item in tree.items):
            return str(tree.caption or "")
    return ""


def book_metadata(env: BuildEnvironment, page: str) -> dict[str, object]:
    """The ``mtl`` entry of a notebook's metadata, or of a text page's front matter."""
    path = Path(env.doc2path(page))
    text = path.read_text("utf-8")
    if path.suffix == ".ipynb":
        found = json.loads(text)["metadata"].get("mtl", {})
    else:
        front = re.match(r"---\n(.*?)\n---\n", text, re.S)
        found = (yaml.safe_load(front[1]) or {}).get("mtl", {}) if front else {}
    return dict(found)


def code_cells(doctree: nodes.document, tag: str = "") -> Iterator[nodes.container]:
    """The code cells of a page, in order; only those with a tag, if one is given."""
    for node in doctree.findall(nodes.container):
        if node.get("nb_element") == "cell_code" and (not tag or f"tag_{tag}" in node["classes"]):
            yield node


def section_of(node: nodes.Node) -> nodes.section | None:
    """The innermost section around a node, passing over the sections that exercises make for themselves."""
    parent = node.parent
    while parent is not None:
        if isinstance(parent, nodes.section) and any(isinstance(c, nodes.title) for c in parent.children):
            return parent
        parent = parent.parent
    return None
