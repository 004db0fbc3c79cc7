"""Writes requirements.txt: the exact versions that are installed in .venv, the book's direct needs first.

To add or to raise a package: change its range in pyproject.toml, install it in .venv, then
``python tools/pin_requirements.py`` and ``make test``.
"""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distributions, requires
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAD = """\
# The exact environment of the book; pyproject.toml holds the ranges of the package itself.
# Written by tools/pin_requirements.py from an environment in which `make test` passes.
# On Linux without a GPU, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu saves some GB of download.
"""


def key(name: str) -> str:
    """A distribution's name in its normal form."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needs(requirements: list[str], extras: frozenset[str] = frozenset()) -> list[tuple[str, frozenset[str]]]:
    """Name and extras of each requirement that applies here."""
    from packaging.requirements import Requirement

    parsed = [Requirement(text) for text in requirements]
    asked = extras | {""}
    applies = [r for r in parsed if not r.marker or any(r.marker.evaluate({"extra": e}) for e in asked)]
    return [(key(r.name), frozenset(r.extras)) for r in applies]


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    groups = {"package": project["dependencies"], **project["optional-dependencies"]}
    installed = {key(d.metadata["Name"]): d for d in distributions()}
    lines, written = [HEAD.rstrip()], {key(project["name"])}
    for group, requirements in groups.items():
        fresh = sorted({name for name, _ in needs(requirements)} - written)
        lines += ["", f"# {group}"] if fresh else []
        for name in fresh:
            version = installed[name].version.partition("+")[0]  # torch's +cpu is one build of the version
            lines.append(f"{installed[name].metadata['Name']}=={version}")
        written.update(fresh)
    queue = [need for requirements in groups.values() for need in needs(requirements)]
    reached: set[tuple[str, frozenset[str]]] = set()
    while queue:
        name, extras = queue.pop()
        if name in installed and (name, extras) not in reached:
            reached.add((name, extras))
            queue += needs(requires(name) or [], extras)
    needed = {name for name, _ in reached}
    lines += ["", "# what these need in their turn"]
    for name in sorted(needed - written):
        lines.append(f"{installed[name].metadata['Name']}=={installed[name].version.partition('+')[0]}")
    (ROOT / "requirements.txt").write_text("\n".join(lines) + "\n", "utf-8")
    unused = sorted(set(installed) - needed - {"pip"})
    if unused:
        print(f"Installed and not needed, so not pinned: {', '.join(unused)}")


if __name__ == "__main__":
    main()
