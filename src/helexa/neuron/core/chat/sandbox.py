"""Jinja's sandbox with what transformers gives templates, and a bound on all that a template can do.

A template comes with a model, from anywhere. Jinja's own sandbox keeps it from what it must not touch; this one also
keeps it from running for ever and from filling the memory. Every iteration, call and written piece is charged to a
`Budget` of steps and characters with a deadline, and whatever makes much out of little in one go (`*`, `+`, `replace`,
padding, a list in a list) is measured before or as it is made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from types import BuiltinMethodType
from typing import Any, ClassVar, Final, cast

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_STEPS: Final = 2_000_000
MAX_CHARACTERS: Final = 128 * 1024 * 1024
"""Characters that one rendering may make or write altogether."""
MAX_TEXT: Final = 8 * 1024 * 1024
"""Characters that a template may make in one go."""
MAX_ITEMS: Final = 500_000
ITEMS_PER_STEP: Final = 4096
MAX_PADDING: Final = 10_000
MAX_DATE_FORM: Final = 64
MAX_SECONDS: Final = 2.0
MAX_NUMBER: Final = 1 << 64
STEPS_PER_LOOK: Final = 16
SPLIT_COST: Final = 16
"""Splitting makes objects, which are larger than the characters they hold."""


_DEFAULTS: Final = cast(dict[str, Callable[..., Any]], FILTERS)


class Refused(Exception):
    """The template refuses the conversation (`raise_exception`)."""


class Exhausted(Exception):
    """The template does more than it may."""


class Budget:
    """What one rendering may use. `now` tells seconds on any clock."""

    def __init__(self, now: Callable[[], float], *, seconds: float = MAX_SECONDS) -> None:
        self._now, self._until = now, now() + seconds
        self._steps, self._characters = MAX_STEPS, MAX_CHARACTERS

    def spend(self, characters: int = 0) -> None:
        """One step, and the characters that it makes. Raises Exhausted."""
        self._steps -= 1
        self._characters -= characters
        if self._steps < 0 or self._characters < 0 or characters > MAX_TEXT:
            raise Exhausted("it does too much")
        if self._steps % STEPS_PER_LOOK == 0 and self._now() > self._until:
            raise Exhausted("it takes too long")


BUDGET: Final[ContextVar[Budget]] = ContextVar("budget")


def spend(characters: int = 0) -> None:
    """Charge the rendering that runs."""
    BUDGET.get().spend(characters)


def size_of(value: object) -> int:
    """About how many characters `value` has as text, a list in it counted as often as it is in it. Raises Exhausted."""
    total, items, waiting = 0, 0, [value]
    while waiting:
        each = waiting.pop()
        total += len(each) if isinstance(each, str) else 1
        items += 1
        if total > MAX_CHARACTERS or items + len(waiting) > MAX_ITEMS:
            raise Exhausted("it makes too much")
        if items % ITEMS_PER_STEP == 0:
            spend()
        if isinstance(each, Mapping):
            pairs = cast(Mapping[object, object], each)
            waiting += [*pairs.keys(), *pairs.values()]
        elif isinstance(each, list | tuple | set | frozenset):
            waiting += cast(Iterable[object], each)
    return total


class Sandbox(ImmutableSandboxedEnvironment):
    """See the module. `today` is the time that `strftime_now` tells."""

    intercepted_binops: ClassVar[frozenset[str]] = frozenset(("+", "*", "**", "%"))  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, today: Callable[[], datetime]) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            finalize=_written,
            optimized=False,
        )
        self.filters = {name: each for name, each in _DEFAULTS.items() if name not in _DROPPED} | _FILTERS
        known = cast(dict[str, object], self.globals)
        known |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now(today)}
        del known["lipsum"]

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return cast(nodes.Template, _Charged().visit(super()._parse(source, name, filename)))

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        spend()
        if isinstance(obj, BuiltinMethodType) and isinstance(obj.__self__, str):
            _foresee(obj.__self__, obj.__name__, args)
        return _sized(super().call(context, obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def measured(*args: object, **kwargs: object) -> str:
            _foresee(value.__self__, "format", (*args, *kwargs.values()))
            return wrapped(*args, **kwargs)

        return measured

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            _in_range(abs(left) ** min(abs(right), 64) if _numbers(left, right) else MAX_NUMBER)
        elif operator == "%" and isinstance(left, str):
            _percent(left, right)
        elif operator == "*":
            spend(_product(left, right))
        elif operator == "+":
            spend(len(left) + len(right) if isinstance(left, str) and isinstance(right, str) else 0)
        return _sized(super().call_binop(context, operator, left, right))


def _sized(made: object) -> object:
    """What was made, unless it is a list of too much."""
    if isinstance(made, list | tuple | dict):
        size_of(cast(object, made))
    return cast(object, made)


def _numbers(*values: object) -> bool:
    return all(isinstance(value, int | float) for value in values)


def _in_range(number: float) -> None:
    if not abs(number) < MAX_NUMBER:
        raise Exhausted("it makes too large a number")


def _product(left: Any, right: Any) -> int:
    """Characters or items of `left * right`."""
    if _numbers(left, right):
        _in_range(left * right)
        return 0
    many, times = (right, left) if isinstance(left, int) else (left, right)
    return size_of(many) * max(0, times) if isinstance(times, int) else 0


def _percent(form: str, values: object) -> None:
    if re.search(r"%[^a-zA-Z%]*(\d{5}|\*)", form):
        raise Exhausted("it pads too much")
    spend(len(form) + size_of(values) * form.count("%"))


def _foresee(text: str, method: str, args: tuple[Any, ...]) -> None:
    """Charge a method of str with what it will make."""
    widths = [arg for arg in args if isinstance(arg, int)]
    match method:
        case "replace" if len(args) >= 2:
            spend(len(text) + text.count(args[0]) * len(args[1]))
        case "join" if args:
            items = list(args[0])
            spend(size_of(items) + len(text) * len(items))
        case "split" | "rsplit" | "splitlines":
            spend(SPLIT_COST * len(text))
        case "ljust" | "rjust" | "center" | "zfill" | "expandtabs" if any(width > MAX_PADDING for width in widths):
            raise Exhausted("it pads too much")
        case "expandtabs":
            spend(len(text) + text.count("\t") * max(widths, default=8))
        case "format":
            if re.search(r"\{[^{}]*:[^{}]*(\d{5}|\{)", text):
                raise Exhausted("it pads too much")
            spend(len(text) + size_of(args) * text.count("{"))
        case "translate":
            raise Exhausted("it translates characters")
        case _:
            spend(len(text) // 64)


# ── What a template finds ──────────────────────────────────────────────────────────────────────────────────────────


def _raise_exception(message: object) -> None:
    raise Refused(str(message)[:1000])


def _strftime_now(today: Callable[[], datetime]) -> Callable[[object], str]:
    def strftime_now(form: object) -> str:
        text = str(form)
        if len(text) > MAX_DATE_FORM or re.search(r"%\D?\d", text):
            raise Exhausted("it asks for a date in an odd form")
        return today().strftime(text)

    return strftime_now


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """As transformers': characters stay as they are, and the layout may be chosen."""
    spend(size_of(value) * (1 + min(indent or 0, MAX_PADDING)))
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@jinja2.pass_context
def _written(context: Context, value: object) -> object:
    """Whatever an expression writes passes here."""
    del context
    spend(size_of(value))
    return value


@jinja2.pass_context
def _spend(context: Context, characters: int) -> str:
    del context
    spend(characters)
    return ""


@jinja2.pass_context
def _joined(context: Context, values: list[object]) -> str:
    """What `a ~ b` is made into."""
    del context
    spend(size_of(values))
    return "".join(str(value) for value in values)


@jinja2.pass_context
def _built(context: Context, value: object) -> object:
    """A list or a dict that was just written down."""
    del context
    size_of(value)
    return value


def _string(value: object) -> str:
    spend(size_of(value))
    return str(value)


def _list(value: Iterable[Any]) -> list[Any]:
    spend(SPLIT_COST * len(value) if isinstance(value, str) else 0)
    return list(value)


def _replace(text: object, old: str, new: str, count: int = -1) -> str:
    whole = str(text)
    _foresee(whole, "replace", (old, new))
    return whole.replace(old, new, count)


@jinja2.pass_environment
def _join(env: jinja2.Environment, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    items = [item if attribute is None else env.getitem(item, attribute) for item in value]
    spend(size_of(items) + len(d) * len(items))
    return d.join(str(item) for item in items)


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    pad = width if isinstance(width, str) else " " * min(width, MAX_PADDING)
    lines = text.splitlines()
    spend(len(text) + len(pad) * len(lines))
    padded = [pad + line if (line or blank) and (at or first) else line for at, line in enumerate(lines)]
    return "\n".join(padded) + ("\n" if text.endswith("\n") and text else "")


def _counted(name: str) -> Callable[..., Iterator[Any]]:
    """A lazy filter, charged for each item that is taken from it."""
    lazy = _DEFAULTS[name]

    @jinja2.pass_context
    def counted(context: Context, value: Iterable[Any], *args: Any, **kwargs: Any) -> Iterator[Any]:
        for item in lazy(context, value, *args, **kwargs):
            spend()
            yield item

    return counted


_DROPPED: Final = frozenset(
    ("center", "filesizeformat", "forceescape", "format", "pprint", "random", "urlize", "wordwrap", "xmlattr", "batch",
     "slice", "striptags", "truncate", "urlencode")
)  # fmt: skip
"""Filters that no chat template needs, and that make much out of little."""

_FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "tojson": _tojson,
    "string": _string,
    "list": _list,
    "replace": _replace,
    "join": _join,
    "indent": _indent,
    "_spend": _spend,
    "_joined": _joined,
    "_built": _built,
} | {name: _counted(name) for name in ("map", "select", "reject", "selectattr", "rejectattr")}


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks what the assistant wrote; a prompt shows it as it is."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Charged(NodeTransformer):
    """Puts a charge at the head of whatever runs more than once, and measures what is built."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - jinja2's names
        return self._charge(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802
        return self._charge(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802
        return self._charge(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        return _filtered(nodes.List([self.visit(each) for each in node.nodes]), "_joined", node.lineno)

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        return _filtered(self.generic_visit(node), "_built", node.lineno)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        return _filtered(self.generic_visit(node), "_built", node.lineno)

    def _charge(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
        cost = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        charged = cast(nodes.For, self.generic_visit(node))
        charged.body.insert(
            0, nodes.ExprStmt(_filtered(nodes.Const(cost), "_spend", node.lineno)).set_lineno(node.lineno)
        )
        return charged


def _filtered(node: nodes.Node, name: str, line: int) -> nodes.Filter:
    return cast(nodes.Filter, nodes.Filter(node, name, [], [], None, None).set_lineno(line))


__all__ = ["BUDGET", "Budget", "Exhausted", "Refused", "Sandbox"]
