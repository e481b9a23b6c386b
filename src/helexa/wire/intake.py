"""Reads client JSON into typed shapes; whatever is wrong with it becomes an InvalidRequest that names the field.

Lenient in: unknown fields are skipped, `null` is absence. But a field that is read must have its type, and no input,
however broken, raises anything else.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, TypeAlias, TypeGuard, TypeVar, cast

import msgspec
from msgspec import UNSET, Meta, UnsetType

from helexa.base.errors import InvalidRequest

T = TypeVar("T")

# Numbers that engines keep in 32 bits are bounded here: most of them cut a larger one without a word.
ModelName: TypeAlias = Annotated[str, Meta(min_length=1)]
Count: TypeAlias = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Natural: TypeAlias = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Int64: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
NotNegative: TypeAlias = Annotated[float, Meta(ge=0)]
Positive: TypeAlias = Annotated[float, Meta(gt=0)]
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
TopK: TypeAlias = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
"""-1 and 0 both switch it off, each in its own engine."""

_MISSING = re.compile(r"missing required field `([^`]*)`")
_INDEX = re.compile(r"\[(\d+|\.\.\.)\]")


def read(decoder: msgspec.json.Decoder[T], body: bytes | msgspec.Raw, at: str = "") -> T:
    """Decode `body`; raises InvalidRequest with `param` such as `messages.3.content.0.type`, prefixed by `at`."""
    try:
        if not at and not body.isascii():
            body.decode()  # what is kept raw is not looked at by the decoder, and must not fail later
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _named(str(error), at) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if name := _not_finite(bytes(body)):
            raise refuse(name, "NaN and infinities are no JSON; leave the field out, or give it a number") from None
        raise _malformed(str(error), at) from None
    except RecursionError:
        raise _malformed("it is nested too deeply", at) from None


def refuse(param: str, problem: str) -> InvalidRequest:
    """An InvalidRequest about one field, worded `param: problem` as Anthropic words its own."""
    return InvalidRequest(f"{param}: {problem}", param=param)


def join(*path: str | int) -> str:
    """`("messages", 3, "role")` is `messages.3.role`; empty parts vanish."""
    return ".".join(str(part) for part in path if part != "")


MaybeRaw: TypeAlias = msgspec.Raw | UnsetType
"""An optional raw field, with UNSET as its default; `Raw | None` would refuse everything but null."""
MaybeObject: TypeAlias = Annotated[MaybeRaw, Meta(extra_json_schema={"type": "object"})]
Unsupported: TypeAlias = Annotated[MaybeRaw, Meta(extra_json_schema={"type": "null"})]
"""These two say more to the reader of the published document than the decoder checks; the refusal is worded where the
field is read."""


def words(*choices: str) -> Meta:
    """The words that a text may be, for the published document as above."""
    return Meta(extra_json_schema={"enum": list(choices)})


def given(raw: MaybeRaw) -> TypeGuard[msgspec.Raw]:
    """Whether an optional raw field holds anything; `null` is absence."""
    return raw is not UNSET and memoryview(raw)[0] != _NULL


_NULL = ord("n")


def kind_of(raw: msgspec.Raw) -> str:
    """The JSON type of a raw value: object, array, str, null, bool or number."""
    return _KINDS.get(memoryview(raw)[0], "number")


_KINDS = {
    ord(sign): kind for sign, kind in zip('{["ntf', ("object", "array", "str", "null", "bool", "bool"), strict=True)
}


def an_object(raw: msgspec.Raw, *path: str | int) -> msgspec.Raw:
    """`raw` itself if it is a JSON object; a schema or a tool input is passed on unread, but it must be one."""
    if (kind := kind_of(raw)) != "object":
        raise refuse(join(*path), f"Expected `object`, got `{kind}`")
    return raw


def _named(text: str, at: str) -> InvalidRequest:
    what, found, path = text.rpartition(" - at `")
    if not found:
        what, path = text, ""
    param = join(at, _dotted(path.rpartition("$")[2].rstrip("`")))
    if missing := _MISSING.search(what):
        return refuse(join(param, missing[1]), "Field required")
    return refuse(param, what) if param else InvalidRequest(f"The request body: {what}")


def _not_finite(body: bytes) -> str:
    """The field of a malformed body that says NaN or an infinity, as Python writes them; empty where none does."""
    if b"NaN" not in body and b"Infinity" not in body:
        return ""
    try:
        given: object = json.loads(body, parse_constant=lambda _: _NO_NUMBER)
    except (ValueError, RecursionError):
        return ""
    fields = cast("dict[str, object]", given) if isinstance(given, dict) else {}
    return next((name for name, value in fields.items() if _has_none(value)), "")


_NO_NUMBER = object()


def _has_none(value: object) -> bool:
    """Whether it is or holds what is no number; by a list of what is still to be seen, however deep it is nested."""
    unseen = [value]
    while unseen:
        each = unseen.pop()
        if each is _NO_NUMBER:
            return True
        if isinstance(each, dict):
            unseen += cast("dict[str, object]", each).values()
        elif isinstance(each, list):
            unseen += cast("list[object]", each)
    return False


def _dotted(path: str) -> str:
    return _INDEX.sub(r".\1", path).strip(".").replace("....", "")


def _malformed(problem: str, at: str) -> InvalidRequest:
    if at:
        return refuse(at, problem)
    return InvalidRequest(f"The request body could not be parsed as JSON: {problem}")
