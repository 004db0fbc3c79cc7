"""The built site without a browser: every chapter is there, links lead somewhere, claims to their cells."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from browser import ROOT, pages
from bs4 import BeautifulSoup

OUTSIDE = ("http:", "https:", "mailto:", "data:")


@functools.cache
def parsed(path: Path) -> BeautifulSoup:
    """One page of the site."""
    return BeautifulSoup(path.read_text("utf-8"), "html.parser")


@functools.cache
def anchors(path: Path) -> frozenset[str]:
    """The ids on a page."""
    return frozenset(str(tag["id"]) for tag in parsed(path).find_all(id=True))


def toc_entries() -> list[str]:
    """Every page that the table of contents names."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    found = [toc["root"]]

    def walk(entries: list[dict]) -> None:
        for entry in entries:
            found.append(entry["file"])
            walk(entry.get("sections", []))

    for part in toc["parts"]:
        walk(part["chapters"])
    return found


@pytest.mark.parametrize("entry", toc_entries())
def test_every_entry_of_the_contents_has_a_page(site: Path, entry: str) -> None:
    assert (site / f"{entry}.html").exists(), f"{entry} is in _toc.yml, but {entry}.html was not built"


def test_every_link_leads_to_a_file_and_an_anchor(site: Path) -> None:
    broken = []
    for name in pages(site):
        for tag in parsed(site / name).find_all(["a", "link", "script", "img"]):
            address = tag.get("href") or tag.get("src") or ""
            if not address or address.startswith(OUTSIDE) or name in ("search.html",) and address == "#":
                continue
            parts = urlsplit(str(address))
            target = (site / name).parent / unquote(parts.path) if parts.path else site / name
            target = target.resolve()
            if not target.exists():
                broken.append(f"{name}: {address} (no such file)")
            elif parts.fragment and target.suffix == ".html" and tag.name == "a":
                if unquote(parts.fragment) not in anchors(target):
                    broken.append(f"{name}: {address} (no such anchor)")
    assert not broken, "\n".join(broken)


def test_every_id_is_unique_on_its_page(site: Path) -> None:
    repeated = []
    for name in pages(site):
        ids = [tag["id"] for tag in parsed(site / name).find_all(id=True)]
        repeated += [f"{name}: {one}" for one in sorted(set(ids)) if ids.count(one) > 1]
    assert not repeated, "\n".join(repeated)


def claim_cells(site: Path) -> list[tuple[str, str]]:
    """(page, cell id) of every cell tagged ``claim`` in the notebooks that the site was built from."""
    found = []
    for entry in toc_entries():
        path = site / "_sources" / f"{entry}.ipynb"
        if path.exists():
            cells = json.loads(path.read_text("utf-8"))["cells"]
            found += [(entry, cell["id"]) for cell in cells if "claim" in cell["metadata"].get("tags", [])]
    return found


def test_the_claims_page_lists_every_claim_with_its_evidence_and_its_cell(site: Path) -> None:
    page = site / "chapters/appendix/claims.html"
    listed = parsed(page).select(".mtl-claim-list > li")
    for claim in listed:
        link = claim.find("a")
        assert link is not None and claim.select_one(".mtl-evidence"), f"no evidence: {claim.get_text()}"
        path, _, anchor = str(link["href"]).partition("#")
        cell = parsed((page.parent / path).resolve()).find(id=anchor)
        assert cell is not None and cell.find_parent(class_="tag_claim"), (
            f"{link['href']} is not in a claim cell"
        )
    assert len(listed) >= len(claim_cells(site))


def test_no_page_asks_another_host_for_anything(site: Path) -> None:
    asked = []
    for name in pages(site):
        for tag in parsed(site / name).find_all(["script", "link", "img", "iframe", "source", "video"]):
            address = str(tag.get("src") or tag.get("href") or "")
            if address.startswith(("http:", "https:", "//")) and tag.get("rel") not in (["canonical"],):
                asked.append(f"{name}: {address}")
    for sheet in site.rglob("*.css"):
        asked += [
            f"{sheet.name}: {url}"
            for url in re.findall(r"url\(\s*['\"]?(https?://[^)'\"]+)", sheet.read_text("utf-8"))
        ]
    assert not asked, "\n".join(asked)


def test_every_inline_figure_has_a_name_and_follows_the_theme(site: Path) -> None:
    for name in pages(site):
        for figure in parsed(site / name).select("svg.mtl-figure"):
            assert figure.get("role") == "img" and len(str(figure.get("aria-label", ""))) > 10, (
                f"{name}: no alternative text"
            )
            text = str(figure)
            assert "var(--mtl-" in text or figure.find_parent(class_="mtl-diagram"), (
                f"{name}: colours do not follow the theme"
            )
