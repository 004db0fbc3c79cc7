"""What a request may hold: strict JSON, checked against models that are generated from the features."""

from __future__ import annotations

import asyncio
import json
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .features import Features
from .reproducible import need

_TEXT, _ID = "text or null", "text, a finite number, true, false or null"
_NUMBER = "a finite number, true, false or null"


@dataclass(frozen=True)
class Limits:
    """What one request may cost.

    Attributes:
        rows: Rows or candidates.
        text: Characters of one text or id.
        body: Bytes of the body.
        seconds: Until the whole body must have arrived.
        far: Standard deviations of the training rows by which a number may differ from their mean; one absurd
            number would spoil the sums that monitoring reads.
    """

    rows: int = 1000
    text: int = 10_000
    body: int = 2**20
    seconds: float = 10.0
    far: float = 1e6


class Refusal(Exception):
    """A request that is answered with a status and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


async def read(request: Any, limits: Limits) -> bytes:
    """The body; what is too large is read to its end, so that the sender gets the answer, but not kept."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.seconds):
            async for part in request.stream():
                size += len(part)
                if size <= limits.body:
                    parts.append(part)
                elif size > 16 * limits.body:
                    break
    except TimeoutError:
        raise Refusal(408, f"the body did not arrive within {limits.seconds:g} seconds.") from None
    if size > limits.body:
        raise Refusal(413, f"the body is longer than {limits.body} bytes: send fewer rows at a time.")
    return b"".join(parts)


def parsed(body: bytes) -> Any:
    """JSON in the strict sense: UTF-8, no NaN, no name twice."""

    def no_constant(name: str) -> None:
        raise Refusal(400, f"the body holds {name}, which is no JSON: send null where a number is missing.")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(entries := dict(pairs)) < len(pairs):
            names = Counter(name for name, _ in pairs)
            raise Refusal(400, f"the name {names.most_common(1)[0][0][:80]!r} occurs twice in one object.")
        return entries

    try:
        return json.loads(body.decode("utf-8"), parse_constant=no_constant, object_pairs_hook=once)
    except RecursionError:
        raise Refusal(400, "the body is nested too deeply.") from None
    except UnicodeDecodeError:
        raise Refusal(400, "the body is not UTF-8.") from None
    except json.JSONDecodeError as error:
        raise Refusal(400, f"the body is no JSON: {error.msg} at character {error.pos}.") from None
    except ValueError:
        raise Refusal(400, "the body holds an integer of thousands of digits.") from None


def described(features: Features) -> dict[str, str]:
    """What each column may hold, in words."""
    roles = {"text": _TEXT, "categorical": _ID, "numeric": _NUMBER}  # the last word where a column has two
    return {column: told for role, told in roles.items() for column in getattr(features, role)}


def models(features: Features, limits: Limits) -> tuple[Any, Any]:
    """Models of the two requests, generated from the features."""
    pydantic, typing = need("pydantic", "serving"), need("typing_extensions", "serving")
    strict = pydantic.ConfigDict(strict=True, extra="forbid")
    texts = typing.Annotated[str, pydantic.Field(max_length=limits.text)]
    kinds: dict[str, Any] = dict.fromkeys(features.text, texts | None)
    kinds |= {
        c: texts | int | pydantic.FiniteFloat | bool | None for c in features.categorical if c not in kinds
    }
    kinds |= dict.fromkeys(features.numeric, pydantic.FiniteFloat | bool | None)
    row = typing.TypedDict("Row", kinds)  # type: ignore[operator, unused-ignore]
    row.__pydantic_config__ = strict
    rows = typing.Annotated[list[row], pydantic.Field(max_length=limits.rows)]  # type: ignore[valid-type]
    number = pydantic.FiniteFloat
    weights = dict[str, number | str | list[number]]  # type: ignore[valid-type]
    optional = {"value": weights | None, "powers": dict[str, number] | None}  # type: ignore[valid-type]
    optional |= {"k": typing.Annotated[int, pydantic.Field(ge=1)] | None}
    bodies = []
    for name, fields in (
        ("Predict", {"rows": rows}),
        ("Rank", {"candidates": rows} | {k: typing.NotRequired[v] for k, v in optional.items()}),
    ):
        body = typing.TypedDict(name, fields)
        body.__pydantic_config__ = strict
        bodies.append(pydantic.TypeAdapter(body))
    return bodies[0], bodies[1]


def with_context(body: Any) -> Any:
    """Write what all candidates share into each of them."""
    if not isinstance(body, dict) or "context" not in body:
        return body
    context, candidates = body["context"], body.get("candidates")
    if not isinstance(context, dict):
        raise Refusal(422, "context must be an object with the columns that all candidates share.")
    rest = {name: entry for name, entry in body.items() if name != "context"}
    if isinstance(candidates, list) and all(isinstance(row, dict) for row in candidates):
        for number, row in enumerate(candidates):
            if both := context.keys() & row.keys():
                raise Refusal(
                    422, f"column {min(both)[:80]!r} is in context and in candidate {number}: give it once."
                )
        rest["candidates"] = [context | row for row in candidates]
    return rest


def valid(model: Any, body: Any, rows: str, expected: Mapping[str, str], limits: Limits) -> dict[str, Any]:
    """Check a body against its model; the first problem becomes a sentence."""
    found = body.get(rows) if isinstance(body, dict) else None
    if isinstance(found, list) and len(found) > limits.rows:
        raise Refusal(413, f"{len(found)} {rows}: send at most {limits.rows} at a time.")
    try:
        model.validate_python(body)
    except need("pydantic", "serving").ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise Refusal(422, _sentence(first, rows, expected, limits)) from None
    return dict(body)  # strict: nothing was converted


def _sentence(problem: Mapping[str, Any], rows: str, expected: Mapping[str, str], limits: Limits) -> str:
    place = [str(part)[:80] for part in problem["loc"]]
    if place[:1] == [rows] and len(place) > 1:
        where = f"row {place[1]}" + (f", column {place[2]!r}" if len(place) > 2 else "")
    else:
        where = f"{place[0]!r}" if place else "the body"
    kind, found = problem["type"], reprlib.repr(problem["input"])  # short, however long or deep the input
    if kind == "missing":
        return f"{where} is missing: send it" + (", null where it is not known." if len(place) > 2 else ".")
    if kind == "extra_forbidden":
        return f"{where} is not known to this model: leave it out."
    if kind == "string_too_long":
        return f"{where} is longer than {limits.text} characters: shorten it."
    told = expected.get(place[2]) if where.startswith("row") and len(place) > 2 else None
    told = told or problem["msg"].replace("Input should be", "").replace("dictionary", "object").strip()
    return f"{where} holds {found}: it must be {told}."


class ColumnsOf(Mapping[str, Any]):
    """Rows seen as columns, each read only when a weight names it."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.rows = rows

    def __getitem__(self, name: str) -> list[Any]:
        return [row[name] for row in self.rows]

    def __iter__(self) -> Any:
        return iter(self.rows[0] if self.rows else ())

    def __len__(self) -> int:
        return len(self.rows[0]) if self.rows else 0
