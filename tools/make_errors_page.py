# ruff: noqa: E501 (the page's own lines)
"""Write the appendix page *Errors you may see* from the table of cases, by running each of them.

python tools/make_errors_page.py
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "chapters" / "appendix" / "errors.md"
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import bad_input_cases as table  # noqa: E402
import bad_requests  # noqa: E402

SERVICE = """## The service

What `python -m mtl_ref.service FOLDER` answers to a request that it refuses: a status, and a JSON object whose `detail`
is one sentence. The model here reads the columns `item id`, `age` and `note`; a request may hold {rows} rows, {text}
characters in a text and {body:,} bytes. Each of these {requests} was sent to make this page, and after each the service
answered the next request as ever.
"""

HEAD = """---
mtl:
  minutes: {minutes}
---

<!-- Made from tests/bad_input_cases.py by `python tools/make_errors_page.py`: change the table, not this page. -->

# Errors you may see

You searched for an error, and here you are. A function of `mtl_ref` that is given something it cannot use says so in
one sentence: *which* column, task or file, *what* was found there and, after the last colon, *what to do*. A refusal
changes nothing: no file is half written, no weight has moved. (Only a training that diverges stops where it stands.)

Below stand {refused} such cases, and {accepted} that are accepted although they look wrong, in the order of the pipeline;
at the end, what the service answers.
All were run to make this page; the tests run them again. They share a `table` of twelve rows with the columns `item`,
`price`, `title`, `click` and `stars`, its fitted `features`, the `tasks` `Binary("click")` and `Ordinal("stars")`,
their tensors `x` and `y`, a `model`, and a folder, which is `FOLDER` in the messages.

Before you search: read the sentence to its end, where the remedy is. Then look for the last line of the traceback that
is *yours*: an error is raised where the bad value comes in, not three epochs later.
"""


def code(text: str) -> str:
    """Inline code, whatever quotes it holds."""
    return f"``{text}``" if "`" in text else f"`{text}`"


def entry(case: table.Case) -> Iterator[str]:
    """One case, run."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        try:
            with table.scene(Path(scratch, "scene")) as names:
                exec(case.before, names)
                _, error = table.run(case, names)
                told = table.sentence(error, names["folder"]) if error is not None else ""
        finally:
            os.chdir(before)
    if (type(error).__name__ if error is not None else "") != case.error:
        raise SystemExit(f"{case.what}: expected {case.error or 'no error'}, found {error!r}")
    yield f"**{case.what}.** {code(case.code)}"
    yield ""
    if error is not None:
        yield f": {code(f'{type(error).__name__}: {told}')}"
    else:
        yield ": No error."
    if case.then:
        yield f"  {case.then}"
    yield ""


def shortened(body: str | bytes, length: int = 60) -> str:
    """A body as the page shows it: one line, not longer than a reader's patience."""
    shown = repr(body)[2:-1] if isinstance(body, bytes) else body.encode("unicode_escape").decode()
    if not shown.strip():
        return f"{len(shown):,} blanks" if shown else "an empty body"
    end = f" ({len(shown):,} characters)" if len(shown) > 2 * length else ""
    return code(shown[:length] + "..." if end else shown) + end


def requests() -> Iterator[str]:
    """What the service answers."""
    limits = bad_requests.LIMITS
    yield SERVICE.format(rows=limits.rows, text=limits.text, body=limits.body, requests=len(bad_requests.BAD))
    with tempfile.TemporaryDirectory() as scratch:
        with bad_requests.served(bad_requests.bundle(Path(scratch, "shop"))) as client:
            for where, body, status, says in bad_requests.BAD:
                found, sentence = bad_requests.refused(client, where, body)
                if found != status or says not in sentence:
                    raise SystemExit(
                        f"/{where} {body!r}: expected {status} {says!r}, found {found} {sentence!r}"
                    )
                yield f"**`/{where}`** {shortened(body)}"
                yield ""
                yield f": {code(f'{status}: {sentence}')}"
                yield ""


def text() -> str:
    """The page."""
    refused = sum(bool(case.error) for case in table.CASES)
    lines = [HEAD.format(refused=refused, accepted=len(table.CASES) - refused, minutes=10)]
    for step, cases in groupby(table.CASES, lambda case: case.step):
        lines += [f"## {step}", ""]
        for case in cases:
            lines += entry(case)
    lines += requests()
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
