"""Strict TOML configuration: a wrong key or value is an error that names its path and the nearest right key.

`load(path, Shape, env_prefix=..., environ=...)` reads the file, lays `PREFIX_SECTION__KEY=value` from the environment
over it, and converts the whole into a msgspec.Struct that forbids unknown fields.
"""

from __future__ import annotations

import difflib
import math
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from helexa.base.errors import ConfigError

Shape = TypeVar("Shape", bound=msgspec.Struct)
Table = dict[str, Any]

_UNKNOWN = re.compile(r"Object contains unknown field `(?P<key>[^`]*)`(?: - at `\$(?P<at>[^`]*)`)?")
_INVALID = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<at>[^`]*)`)?$", re.S)


def load(path: Path, shape: type[Shape], *, env_prefix: str = "", environ: Mapping[str, str] | None = None) -> Shape:
    """Read `path` as `shape`. Raises ConfigError(path, problem) for an unreadable file, bad TOML, key or value."""
    return convert(overlay(read(path), shape, env_prefix, environ or {}), shape, where=str(path))


def under_home(text: str) -> Path:
    """`text` as an absolute path, `~` being the user's home. Raises ConfigError where there is none."""
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:  # a service or a container's user without an entry in /etc/passwd
        problem = f"no home directory is known for `{text}`; set HOME, or state_dir in neuron.toml"
        raise ConfigError(path="~", problem=problem) from error


def read(path: Path) -> Table:
    """The file as plain tables."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(path=path, problem=f"cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(path=path, problem=f"is not valid TOML: {error}") from error


def convert(table: Table, shape: type[Shape], *, where: str) -> Shape:
    """Tables to `shape`, strictly. Raises ConfigError naming the key's path and the nearest known key."""
    for at, number in _numbers(table):
        if not math.isfinite(number):
            raise ConfigError(path=where, problem=f"`{at}`: must be a finite number, not {number}")
    try:
        return msgspec.convert(table, shape, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(path=where, problem=_explain(str(error), shape)) from error


def _numbers(value: object, at: str = "") -> Iterator[tuple[str, float]]:
    """Every float in there with its path."""
    if isinstance(value, float):
        yield at, value
    elif isinstance(value, dict):
        for key, inner in cast(Table, value).items():
            yield from _numbers(inner, f"{at}.{key}" if at else key)
    elif isinstance(value, list):
        for index, inner in enumerate(cast(list[object], value)):
            yield from _numbers(inner, f"{at}[{index}]")


def _explain(text: str, shape: type[msgspec.Struct]) -> str:
    unknown = _UNKNOWN.match(text)
    if unknown:
        at, key = _trail(unknown["at"]), unknown["key"]
        near = difflib.get_close_matches(key, _keys_at(shape, unknown["at"] or ""), n=1, cutoff=0.5)
        hint = f"; did you mean `{near[0]}`?" if near else ""
        return f"unknown key `{at}{key}`{hint}"
    invalid = _INVALID.match(text)
    at = _trail(invalid["at"] if invalid else None).rstrip(".")
    what = invalid["what"] if invalid else text
    if what.startswith("Invalid enum value"):
        what += f"; it must be one of {', '.join(_words_of(_node_at(shape, invalid['at'] if invalid else '')))}"
    return f"`{at}`: {what}" if at else what


def _words_of(node: object) -> list[str]:
    """What a key may say that takes only certain words (or, beside them, something of another type)."""
    if isinstance(node, msgspec.inspect.UnionType):
        return [word for part in node.types for word in _words_of(part)]
    return [str(word) for word in node.values] if isinstance(node, msgspec.inspect.LiteralType) else []


def _trail(at: str | None) -> str:
    return at.lstrip(".") + "." if at else ""


def _keys_at(shape: type[msgspec.Struct], at: str) -> list[str]:
    """Field names of the struct that lies at msgspec's path, such as `.neurons[...]`."""
    found = _struct_in(_node_at(shape, at))
    return [field.encode_name for field in found.fields] if found else []


def _node_at(shape: type[msgspec.Struct], at: str) -> object:
    current: object = msgspec.inspect.type_info(shape)
    for step in re.findall(r"\.([A-Za-z_]\w*)|\[(?:\.\.\.|\d+|'[^']*')\]", at):
        current = _step(_struct_in(current), step) if step else _element(current)
    return current


def _struct_in(node: object) -> msgspec.inspect.StructType | None:
    if isinstance(node, msgspec.inspect.UnionType):
        return next((_struct_in(part) for part in node.types if _struct_in(part)), None)
    return node if isinstance(node, msgspec.inspect.StructType) else None


def _step(struct: msgspec.inspect.StructType | None, name: str) -> object:
    fields = struct.fields if struct else ()
    return next((field.type for field in fields if field.encode_name == name), None)


def _element(node: object) -> object:
    if isinstance(node, msgspec.inspect.UnionType):
        return next((_element(part) for part in node.types if _element(part)), None)
    if isinstance(node, msgspec.inspect.CollectionType):
        return node.item_type
    return node.value_type if isinstance(node, msgspec.inspect.DictType) else None


def overlay(table: Table, shape: type[msgspec.Struct], prefix: str, environ: Mapping[str, str]) -> Table:
    """`CORTEX_GATEWAY__LISTEN=...` over the file's tables; the value is read as TOML where it is, else as text.

    Only names whose first part is a key of `shape` count, so that unrelated variables of the same prefix do not.
    """
    result = _copy(table)
    if not prefix:
        return result
    known = _keys_at(shape, "")
    for name, text in sorted(environ.items()):
        parts = name.removeprefix(prefix).lower().split("__")
        if not name.startswith(prefix) or parts[0] not in known:
            continue
        spot = result
        for part in parts[:-1]:
            inner = spot.setdefault(part, {})
            if not isinstance(inner, dict):
                raise ConfigError(path=name, problem=f"`{part}` is not a table")
            spot = cast(Table, inner)
        spot[parts[-1]] = _value(text, as_text=_is_text(_type_at(shape, parts)))
    return result


def _value(text: str, *, as_text: bool) -> object:
    """What TOML reads in `text`; a key that wants text keeps it as it stands (a token may be all digits)."""
    try:
        value: object = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text
    return text if as_text and not isinstance(value, str) else value


def _type_at(shape: type[msgspec.Struct], parts: list[str]) -> object:
    current: object = msgspec.inspect.type_info(shape)
    for part in parts:
        struct = _struct_in(current)
        current = _step(struct, part) if struct else _element(current)
    return current


def _is_text(node: object) -> bool:
    parts = node.types if isinstance(node, msgspec.inspect.UnionType) else (node,)
    return any(isinstance(part, msgspec.inspect.StrType) for part in parts)


def _copy(table: Table) -> Table:
    return {key: _copy(cast(Table, value)) if isinstance(value, dict) else value for key, value in table.items()}


def refuse_world_readable(path: Path, *, insecure_ok: bool) -> None:
    """A file that holds secrets must not be readable by everyone. Raises ConfigError naming the chmod that mends it."""
    if not insecure_ok and path.stat().st_mode & stat.S_IROTH:
        raise ConfigError(
            path=path,
            problem=f"holds secrets and is world-readable; run: chmod 0640 {path} (or --insecure-permissions)",
        )
