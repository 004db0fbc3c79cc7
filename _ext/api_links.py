"""Links each API entry back to the chapters: where it is derived, and where it is used.

While a page is read, three things are noted with the section around them: the role ``{derives}`` (the
section that builds the object in view), the roles ``{py:func}`` and ``{py:class}``, and the names of
``mtl_ref`` that code cells use. When the API pages are written, every entry gets the list.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from book_pages import code_cells, pages_in_order, section_of
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.python import PyXRefRole
from sphinx.environment import BuildEnvironment
from sphinx.transforms.post_transforms import SphinxPostTransform

PACKAGE = "mtl_ref"
API = "chapters/appendix/api/"
Place = tuple[str, str, str, str]  # page, anchor, title, "derived" or "used"


def dotted(node: ast.AST) -> str:
    """``a.b.c`` for such an expression; empty for any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        head = dotted(node.value)
        return f"{head}.{node.attr}" if head else ""
    return ""


def used_in_code(doctree: nodes.document) -> list[tuple[str, nodes.Node]]:
    """(full name, cell) for the names of the package that a page's code cells use; imports are followed."""
    known: dict[str, str] = {}
    found: list[tuple[str, nodes.Node]] = []
    for cell in code_cells(doctree):
        block = next(iter(cell.findall(nodes.literal_block)), None)
        try:
            tree = ast.parse(block.astext()) if block is not None else ast.Module([], [])
        except SyntaxError:  # a cell with a magic or an intended error
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
                known |= {name.asname or name.name: f"{node.module}.{name.name}" for name in node.names}
            elif isinstance(node, ast.Import):
                for name in node.names:
                    if name.name.split(".")[0] == PACKAGE:
                        known[name.asname or PACKAGE] = name.name if name.asname else PACKAGE
        for node in ast.walk(tree):
            name = dotted(node)
            head, _, tail = name.partition(".")
            if head in known:
                found.append((known[head] + (f".{tail}" if tail else ""), cell))
    return found


def derives_role() -> PyXRefRole:
    """The role ``{derives}``: a link to the object, and the note that this section builds it."""
    return PyXRefRole(fix_parens=False)


def places(doctree: nodes.document, page: str) -> Iterator[tuple[str, Place]]:
    """(full name, place) for everything a page says about the package."""
    spoken = [
        (node["reftarget"], "derived" if node["reftype"] == "derives" else "used", node)
        for node in doctree.findall(addnodes.pending_xref)
        if node.get("refdomain") == "py" and node["reftype"] in ("func", "class", "meth", "obj", "derives")
    ]
    for name, kind, node in spoken + [(name, "used", cell) for name, cell in used_in_code(doctree)]:
        section = section_of(node)
        if section is not None and name.startswith(f"{PACKAGE}."):
            yield name, (page, section["ids"][0], section.next_node(nodes.title).astext(), kind)


def note_places(app: Sphinx, doctree: nodes.document) -> None:
    """Remember what a chapter says; a ``derives`` reference then resolves as any Python object."""
    env = app.env
    store = getattr(env, "mtl_places", {})
    if not env.docname.startswith(API):
        store[env.docname] = list(dict.fromkeys(places(doctree, env.docname)))
    for node in doctree.findall(addnodes.pending_xref):
        if node["reftype"] == "derives":
            node["reftype"] = "obj"
    env.mtl_places = store


def forget(app: Sphinx, env: BuildEnvironment, page: str) -> None:
    """A page is read again."""
    getattr(env, "mtl_places", {}).pop(page, None)


def merge(app: Sphinx, env: BuildEnvironment, pages: list[str], other: BuildEnvironment) -> None:
    """Collect what a parallel reader found."""
    env.mtl_places = {**getattr(env, "mtl_places", {}), **getattr(other, "mtl_places", {})}


def api_pages(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """The API pages are written again whenever any page was read."""
    return [page for page in env.found_docs if page.startswith(API)]


class UsedIn(SphinxPostTransform):
    """Adds "Derived in" and "Used in" below the description of every object."""

    formats = ("html",)
    default_priority = 700

    def run(self, **kwargs: object) -> None:
        """Add the lists of one API page."""
        if not self.env.docname.startswith(API):
            return
        order = {page: n for n, page in enumerate(pages_in_order(self.env))}
        index: dict[str, list[Place]] = {}
        for page in sorted(self.env.mtl_places, key=lambda p: order.get(p, len(order))):
            for name, place in self.env.mtl_places[page]:
                index.setdefault(name, []).append(place)
        for signature in self.document.findall(addnodes.desc_signature):
            for name in signature["ids"]:
                if name in index:
                    signature.parent.children[-1].insert(0, self.note(index[name]))

    def note(self, found: list[Place]) -> nodes.container:
        """The paragraph: sections that derive the object first; one link per chapter that uses it."""
        lines: list[nodes.Node] = []
        for kind, label in (("derived", "Derived in "), ("used", "Used in ")):
            seen: dict[str, Place] = {}
            for place in found:
                if place[3] == kind:
                    seen.setdefault(place[0] if kind == "used" else f"{place[0]}#{place[1]}", place)
            if seen:
                links: list[nodes.Node] = [nodes.inline("", label, classes=["mtl-header-label"])]
                for n, (page, anchor, title, _) in enumerate(seen.values()):
                    address = f"{self.app.builder.get_relative_uri(self.env.docname, page)}#{anchor}"
                    chapter = self.env.titles[page].astext()
                    text = chapter if title == chapter else f"{chapter}: {title}"
                    links += [
                        nodes.Text("; " if n else ""),
                        nodes.reference("", text, refuri=address, internal=True),
                    ]
                lines.append(nodes.paragraph("", "", *links))
        return nodes.container("", *lines, classes=["mtl-used"])


def setup(app: Sphinx) -> dict[str, object]:
    """Connect the handlers."""
    app.add_role_to_domain("py", "derives", derives_role())
    app.connect("doctree-read", note_places)
    app.connect("env-purge-doc", forget)
    app.connect("env-merge-info", merge)
    app.connect("env-updated", api_pages)
    app.add_post_transform(UsedIn)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
