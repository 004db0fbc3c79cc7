"""Sets the lines around a title: the part above it; minutes, seconds, data and package files below it.

They come from the notebook's metadata, ``"mtl": {"minutes": 12, "seconds": 20, "data": ["reviews"],
"files": ["tasks"]}``, so that a test can compare them with what was measured. Without ``files``, the
package files that the cells import are named.
"""

from __future__ import annotations

from api_links import used_in_code
from book_pages import book_metadata, part_of
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform

DATA_PAGE = "chapters/appendix/data-cards"


def link(page: str, domain: str, kind: str, target: str, text: str) -> addnodes.pending_xref:
    """A reference that Sphinx resolves and checks."""
    node = addnodes.pending_xref(
        "", refdoc=page, refdomain=domain, reftype=kind, reftarget=target, refexplicit=True, refwarn=True
    )
    node += nodes.literal("", text) if domain == "py" else nodes.inline("", text)
    return node


def item(label: str, *content: nodes.Node) -> nodes.inline:
    """One entry of the line below the title."""
    return nodes.inline(
        "", "", nodes.inline("", label, classes=["mtl-header-label"]), *content, classes=["mtl-header-item"]
    )


def listed(links: list[nodes.Node]) -> list[nodes.Node]:
    """The links with commas between them."""
    return [node for n, one in enumerate(links) for node in ([nodes.Text(", ")] if n else []) + [one]]


def header_items(env: BuildEnvironment, page: str, doctree: nodes.document) -> list[nodes.Node]:
    """The entries for one page; none for a page without the metadata."""
    facts = book_metadata(env, page)
    if not facts:
        return []
    files = facts.get("files") or sorted(
        {name.split(".")[1] for name, _ in used_in_code(doctree) if name.count(".")}
    )
    items: list[nodes.Node] = []
    if minutes := facts.get("minutes"):
        items.append(item("", nodes.Text(f"{minutes} min to read")))
    if seconds := facts.get("seconds"):
        items.append(item("", nodes.Text(f"runs in {seconds} s")))
    data = [*facts.get("data", []), *(["mulberry-lane"] if "market" in files else [])]
    if data:
        names = [str(name).replace("_", "-") for name in data]
        links = [link(page, "std", "ref", f"data-{name}", name.replace("-", " ").title()) for name in names]
        items.append(item("Data ", *listed(links)))
    if files:
        links = [link(page, "py", "mod", f"mtl_ref.{name}", str(name)) for name in files]
        items.append(item("Package ", *listed(links)))
    return items


class ChapterFacts(SphinxTransform):
    """Adds the line below the title while the page is read, so that its links are resolved like others."""

    default_priority = 700

    def apply(self, **kwargs: object) -> None:
        """Add it."""
        title = next(iter(self.document.findall(nodes.title)), None)
        if title is not None and (items := header_items(self.env, self.env.docname, self.document)):
            title.parent.insert(
                1, nodes.container("", nodes.paragraph("", "", *items), classes=["mtl-header"])
            )


class PartAboveTitle(SphinxPostTransform):
    """Adds the part above the title; late, because until then a section's first child is its title."""

    formats = ("html",)
    default_priority = 900

    def run(self, **kwargs: object) -> None:
        """Add it."""
        part = part_of(self.env, self.env.docname)
        title = next(iter(self.document.findall(nodes.title)), None)
        if part and title is not None:
            title.parent.insert(0, nodes.paragraph("", part, classes=["mtl-part"]))


def setup(app: Sphinx) -> dict[str, object]:
    """Connect both transforms."""
    app.add_transform(ChapterFacts)
    app.add_post_transform(PartAboveTitle)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
