"""Reads the package's docstrings as they are written: types stand in the annotations, the sections are prose.

Napoleon takes words before a colon for a type ("One row a review: ..." in ``Returns:`` would become a class
that no inventory knows) and every line of ``Raises:`` for an error. Here ``Returns:`` is text, an error
begins with its capitalised name, and NumPy's ``ArrayLike`` is shown by name instead of as the long union
that it stands for.
"""

from __future__ import annotations

import re

from numpy.typing import ArrayLike
from sphinx.application import Sphinx
from sphinx.ext.napoleon.docstring import GoogleDocstring
from sphinx.util.typing import stringify_annotation

ERROR = re.compile(r"\s*([A-Z]\w+): (.*)")


def returns(self: GoogleDocstring, preprocess_types: bool = False) -> list[tuple[str, str, list[str]]]:
    """``Returns:`` as one description without name and type."""
    return [("", "", self._dedent(self._consume_to_next_section()))]


def raises(self: GoogleDocstring, section: str) -> list[str]:
    """``Raises:`` as one field per error; any other line continues the one before."""
    lines: list[str] = []
    for line in self._dedent(self._consume_to_next_section()):
        if match := ERROR.match(line):
            lines.append(f":raises {match[1]}: {match[2]}")
        elif line.strip():
            lines.append(f"    {line.strip()}")
    return [*lines, ""]


def attribute(self: GoogleDocstring) -> tuple[str, list[str]]:
    """The docstring of a property: text, also where its first line holds a colon."""
    return "", self._consume_to_end()


def short_names(app: Sphinx, what: str, name: str, obj: object, *rest: object) -> None:
    """Shorten what autodoc has noted about one object's annotations."""
    noted = app.env.temp_data.get("annotations", {}).get(name, {})
    for key, text in noted.items():
        for mode in ("smart", "fully-qualified-except-typing"):
            text = text.replace(stringify_annotation(ArrayLike, mode), "~numpy.typing.ArrayLike")  # type: ignore[arg-type]
        noted[key] = text


def setup(app: Sphinx) -> dict[str, object]:
    """Replace three of Napoleon's readers."""
    GoogleDocstring._consume_returns_section = returns
    GoogleDocstring._parse_raises_section = raises
    GoogleDocstring._consume_inline_attribute = attribute
    app.connect("autodoc-process-signature", short_names, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
