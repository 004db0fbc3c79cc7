"""Puts every SVG figure into the page itself, so that it follows the theme and needs no second request.

A notebook's figure reaches Sphinx as an image file; a browser cannot recolour an image file. Here it
becomes an inline ``<svg role="img">`` with a transparent ground, ids that are unique on the page, and the
house colours (the same hexes as ``mtl_ref/plots.py``) replaced by CSS variables. A figure without
alternative text is a warning.
"""

from __future__ import annotations

import html
import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

log = logging.getLogger(__name__)

COLOURS = {
    "#2f7fc1": "--mtl-click",
    "#c8561b": "--mtl-purchase",
    "#1b8f6a": "--mtl-rating",
    "#9a6bb8": "--mtl-price",
    "#b0506e": "--mtl-return",
    "#858b94": "--mtl-context",
    "#3b4149": "--mtl-ink",
    "#000000": "--mtl-ink",
    "#ffffff": "--mtl-page",
}
PRESENTATION = re.compile(r'\s(fill|stroke|stop-color)="(#[0-9a-fA-F]{6})"')
HEX = re.compile(r"#[0-9a-fA-F]{6}\b")
ROOT = re.compile(r"<svg\b[^>]*>")
STYLE = re.compile(r"<style[^>]*>(.*?)</style>", re.S)
PIXELS = {"pt": 4 / 3, "px": 1.0, "": 1.0, "in": 96.0}


def recolour(svg: str) -> str:
    """Replace the house hexes by CSS variables, which work in a style and not in a presentation attribute."""
    svg = PRESENTATION.sub(lambda m: f' style="{m[1]}: {m[2]}"' if m[2].lower() in COLOURS else m[0], svg)
    # An element with two style attributes keeps only its first one, so join them.
    svg = re.sub(r'style="([^"]*?);?"((?:\s[\w:-]+="[^"]*")*)\sstyle="([^"]*)"', r'style="\1; \3"\2', svg)

    def variable(match: re.Match[str]) -> str:
        name = COLOURS.get(match[0].lower())
        return f"var({name}, {match[0]})" if name else match[0]

    return HEX.sub(variable, svg)


def scope_ids(svg: str, prefix: str) -> str:
    """Put a prefix before every id and every reference to one."""
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}\1"', svg)
    svg = re.sub(r'\b((?:xlink:)?href)="#([^"]+)"', rf'\1="#{prefix}\2"', svg)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}\1)", svg)


def natural_width(root: str) -> float | None:
    """The width that the file asks for, in CSS pixels; from the viewBox where there is no width."""
    size = re.search(r'\swidth="([\d.]+)(pt|px|in)?"', root)
    if size:
        return float(size[1]) * PIXELS[size[2] or ""]
    box = re.search(r'viewBox="[\d.\-]+[ ,]+[\d.\-]+[ ,]+([\d.]+)', root)
    return float(box[1]) if box else None


def inline(svg: str, prefix: str, alt: str, colours: bool = True) -> str:
    """One SVG file as an element of a page: scoped, recoloured, named, never wider than its box."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", svg, flags=re.S)
    # Matplotlib styles "*", which would reach the whole page. Both properties are inherited: set them once.
    general = "".join(re.findall(r"\*\s*\{([^}]*)\}", "".join(STYLE.findall(svg))))
    svg = STYLE.sub(lambda m: "" if re.fullmatch(r"\s*\*\s*\{[^}]*\}\s*", m[1]) else m[0], svg)
    svg = re.sub(r"<defs>\s*</defs>\s*", "", svg)
    root = ROOT.search(svg)
    if root is None:
        raise ValueError("no <svg> element")
    width = natural_width(root[0])
    kept = re.sub(
        r'\s(width|height|style|role|aria-\w+|version|id|class|preserveAspectRatio)="[^"]*"', "", root[0]
    )
    style = f"--natural: {width:.0f}px; {general.strip()}" if width else general.strip()
    head = kept.replace(
        "<svg",
        f'<svg class="mtl-figure" role="img" aria-label="{html.escape(alt)}" style="{style.strip()}"',
        1,
    )
    body = svg[root.end() :]
    return head + scope_ids(recolour(body) if colours else body, prefix)


class InlineSvg(SphinxPostTransform):
    """Replaces each image node whose file is an SVG by the SVG itself."""

    formats = ("html",)
    # After MyST-NB has chosen one of an output's formats, before Sphinx converts images.
    default_priority = 60

    def run(self, **kwargs: object) -> None:
        """Replace the images of one page."""
        images = [n for n in self.document.findall(nodes.image) if n.get("uri", "").endswith(".svg")]
        for number, node in enumerate(images, start=1):
            path = Path(self.env.srcdir, node["uri"])
            alt = node.get("alt", "").strip()
            if not alt:
                log.warning(
                    "figure %s has no alternative text", path.name, location=node, type="mtl", subtype="alt"
                )
            text = inline(path.read_text("utf-8"), f"f{number}-", alt or "figure")
            node.replace_self(nodes.raw("", text, format="html"))


def setup(app: Sphinx) -> dict[str, object]:
    """Connect the transform."""
    app.add_post_transform(InlineSvg)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
