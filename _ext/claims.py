"""Marks the cells that assert a claim, and lists all claims of the book with their evidence.

A claim cell is tagged ``claim`` and prints ``Claim holds: STATEMENT (EVIDENCE)``. Its output is set as a
sentence with an anchor made from the statement; the directive ``{claims}`` lists every claim, chapter by
chapter, with a link to it. A claim cell without such an output is a warning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from book_pages import code_cells, pages_in_order
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

log = logging.getLogger(__name__)
LINE = re.compile(r"^Claim holds: (.*)$", re.M)


class ClaimList(nodes.General, nodes.Element):
    """Stands for the list until all pages are read."""


def split_evidence(text: str) -> tuple[str, str]:
    """(statement, evidence): the evidence is the last group of parentheses, which may hold others."""
    text, depth = text.strip(), 0
    if text.endswith(")"):
        for position in range(len(text) - 1, -1, -1):
            depth += {")": 1, "(": -1}.get(text[position], 0)
            if depth == 0:
                return text[:position].strip(), text[position + 1 : -1].strip()
    return text, ""


def anchor(statement: str, taken: set[str]) -> str:
    """An id from the statement's first words, unique among those taken."""
    words = re.findall(r"[a-z0-9]+", statement.lower())[:8]
    name = base = "-".join(["claim", *words])
    count = 1
    while name in taken:
        count += 1
        name = f"{base}-{count}"
    taken.add(name)
    return name


def outputs(cell: nodes.container) -> Iterator[nodes.literal_block]:
    """The printed outputs of a cell."""
    for node in cell.findall(nodes.literal_block):
        if "output" in node["classes"]:
            yield node


class MarkClaims(SphinxTransform):
    """Turns the printed line of each claim cell into a sentence with an anchor, and notes it."""

    default_priority = 700

    def apply(self, **kwargs: object) -> None:
        """Do it for one page."""
        store = getattr(self.env, "mtl_claims", {})
        found: list[tuple[str, str, str]] = []
        taken: set[str] = set()
        for cell in code_cells(self.document, "claim"):
            before = len(found)
            for block in list(outputs(cell)):
                notes: list[nodes.Node] = []
                for match in LINE.finditer(block.astext()):
                    statement, evidence = split_evidence(match[1])
                    found.append((anchor(statement, taken), statement, evidence))
                    notes.append(claim_note(*found[-1]))
                rest = LINE.sub("", block.astext()).strip("\n")
                if notes and not rest:
                    block.replace_self(notes)
                    notes[0]["classes"] = ["mtl-claim"]  # it has taken over those of a printed output
                elif notes:
                    block.parent.extend(notes)
                    block.replace_self(nodes.literal_block(rest, rest, **block.attributes))
            if len(found) == before:
                log.warning(
                    "cell tagged claim prints no line 'Claim holds: STATEMENT (EVIDENCE)'",
                    location=cell,
                    type="mtl",
                    subtype="claim",
                )
        store[self.env.docname] = found
        self.env.mtl_claims = store


def claim_note(name: str, statement: str, evidence: str) -> nodes.container:
    """The sentence that stands below a claim cell."""
    text = nodes.paragraph(
        "", "", nodes.inline("", "Claim holds:", classes=["mtl-claim-label"]), nodes.Text(f" {statement} ")
    )
    if evidence:
        text += nodes.inline("", f"({evidence})", classes=["mtl-evidence"])
    return nodes.container("", text, classes=["mtl-claim"], ids=[name])


class Claims(SphinxDirective):
    """``{claims}``: the list of all claims."""

    def run(self) -> list[nodes.Node]:
        """Leave a mark; the list is made when all pages are read."""
        self.env.mtl_claim_pages = getattr(self.env, "mtl_claim_pages", set()) | {self.env.docname}
        return [ClaimList()]


class FillClaimList(SphinxPostTransform):
    """Writes the list: one chapter after another, in the order of the book."""

    default_priority = 5

    def run(self, **kwargs: object) -> None:
        """Fill the marks of one page."""
        for mark in list(self.document.findall(ClaimList)):
            chapters = [(p, self.env.mtl_claims.get(p, [])) for p in pages_in_order(self.env)]
            body = [node for page, claims in chapters if claims for node in self.chapter(page, claims)]
            mark.replace_self(body or nodes.paragraph("", "No chapter makes a claim yet."))

    def chapter(self, page: str, claims: list[tuple[str, str, str]]) -> list[nodes.Node]:
        """The chapter's title and its claims."""
        address = self.app.builder.get_relative_uri(self.env.docname, page)
        name = self.env.titles[page].astext()
        title = nodes.title("", "", nodes.reference("", name, refuri=address, internal=True))
        listing = nodes.bullet_list(classes=["mtl-claim-list"])
        for name, statement, evidence in claims:
            text = nodes.paragraph(
                "", "", nodes.reference("", statement, refuri=f"{address}#{name}", internal=True)
            )
            if evidence:
                text += [nodes.Text(" "), nodes.inline("", evidence, classes=["mtl-evidence"])]
            listing += nodes.list_item("", text)
        return [nodes.section("", title, listing, ids=[f"claims-{nodes.make_id(page)}"])]


def forget(app: Sphinx, env: BuildEnvironment, page: str) -> None:
    """A page is read again."""
    getattr(env, "mtl_claims", {}).pop(page, None)


def merge(app: Sphinx, env: BuildEnvironment, pages: list[str], other: BuildEnvironment) -> None:
    """Collect what a parallel reader found."""
    env.mtl_claims = {**getattr(env, "mtl_claims", {}), **getattr(other, "mtl_claims", {})}
    env.mtl_claim_pages = getattr(env, "mtl_claim_pages", set()) | getattr(other, "mtl_claim_pages", set())


def claim_pages(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """The list is written again whenever any page was read."""
    return sorted(getattr(env, "mtl_claim_pages", set()))


def setup(app: Sphinx) -> dict[str, object]:
    """Connect the handlers."""
    app.add_node(ClaimList)
    app.add_directive("claims", Claims)
    app.add_transform(MarkClaims)
    app.add_post_transform(FillClaimList)
    app.connect("env-purge-doc", forget)
    app.connect("env-merge-info", merge)
    app.connect("env-updated", claim_pages)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
