"""How commands speak: tables on a terminal, plain lines in a pipe, JSON when asked; errors on stderr."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import msgspec

from helexa.base.units import human_mib
from helexa.base.words import counted

if TYPE_CHECKING:
    from cyclopts import App
    from rich.table import Table

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
BROKEN_PIPE = 141
"""What a shell shows for a program that SIGPIPE ended."""


def completed(app: App) -> None:
    """Give a program the word that has shells complete its others."""
    what = "Have bash, zsh or fish complete these words."
    app.register_install_completion_command(help=what)  # pyright: ignore[reportUnknownMemberType] - **kwargs


def run(app: App) -> None:
    """Do what the command line says. Exit status: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted, 141 when
    whoever read the output has left (`| head`)."""
    from helexa.base.errors import HelexaError

    _reach_this_host_directly()
    _speak_whatever_the_locale()
    try:
        try:
            app(sys.argv[1:])
        finally:
            sys.stdout.flush()
    except HelexaError as error:
        fail(error.message)
    except KeyboardInterrupt:
        sys.exit(130)
    except UnicodeEncodeError:
        if (odd := next(filter(_is_no_text, sys.argv[1:]), None)) is None:
            raise
        fail(f"{odd!r} holds bytes that are no text here; LC_ALL=C.UTF-8 is a locale that knows every character", 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered has nowhere to go
        sys.exit(BROKEN_PIPE)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _is_no_text(word: str) -> bool:
    """Whether the shell handed over bytes that the locale could not decode: they come as lone surrogates."""
    return any("\ud800" <= sign <= "\udfff" for sign in word)


def _reach_this_host_directly() -> None:
    """No proxy leads to this host's own loopback, whatever $http_proxy says of everything else."""
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join([*([given] if given else []), *_LOOPBACK])


def _speak_whatever_the_locale() -> None:
    """A character that the terminal's encoding lacks is a `?`; who closed our output gets none."""
    for name in ("stdin", "stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "r+", encoding="utf-8"))  # noqa: SIM115 - it is the program's to its end
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def animated(stream: TextIO) -> bool:
    """Whether bars may move there: on a terminal that can go back over what it shows."""
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def fail(message: str, status: int = 1) -> NoReturn:
    """Say what is wrong, and leave with a status that scripts can trust."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


def as_json(value: object) -> None:
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def stage(loading: dict[str, Any]) -> str:
    """Where a load stands, from its `loading` object: `load 40%`, `queued behind the load of org/b`."""
    part = f" {loading['progress']:.0%}" if loading.get("progress") is not None else ""
    return f"{loading['stage']}{part}" + (f" behind {loading['behind']}" if loading.get("behind") else "")


def weighed(found: dict[str, Any], *, told: str) -> None:
    """The nodes that were weighed for a model, a line each; not what `told` has said already."""
    for one in found["candidates"]:
        parts = [one["verdict"].replace("_", " ")]
        if one["needed_mb"] and not one["detail"].startswith("needs"):
            parts.append(f"needs {human_mib(one['needed_mb'])}")
        if one["detail"] not in told:
            parts.append(one["detail"])
        print(f"  {one['node']}: {'; '.join(parts)}")
    if found["not_weighed"]:
        print(f"  {counted(found['not_weighed'], 'more node')}: no likelier, not weighed in full")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A rich table on a terminal, tab-separated lines in a pipe."""
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(row))
        return
    from rich.console import Console

    Console().print(rich_table(title, columns, rows))


def rich_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    grid = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*(escape(text) for text in row))
    return grid
