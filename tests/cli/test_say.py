"""How commands speak where little can be heard: other encodings, no output at all, terminals that cannot move."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from cyclopts import App

from helexa.cli import chat, cortex, entry, explain, link, say
from helexa.testing.fleet import free_port

from .run import run


def saying(text: str) -> App:
    app = App()

    @app.default
    def speak() -> None:
        print(text)

    return app


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_character_that_the_terminals_encoding_lacks_ends_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(heard, "ascii"))
    assert run(lambda: say.run(saying("déjà \udcff"))) == 0
    assert heard.getvalue() == b"d?j? ?\n"


def test_who_closed_our_output_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert run(lambda: say.run(saying("hello"))) == 0
    sys.stdout.close()


def test_an_output_that_has_no_room_is_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    app = App()

    @app.default
    def speak() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert run(lambda: say.run(app)) == 1
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device\n"


@pytest.mark.parametrize(
    ("stream", "term", "moves"), [(Terminal, "xterm", True), (Terminal, "dumb", False), (io.StringIO, "xterm", False)]
)
def test_bars_move_only_where_they_can(
    monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO], term: str, moves: bool
) -> None:
    monkeypatch.setenv("TERM", term)
    assert say.animated(stream()) is moves


def test_a_decision_is_asked_for_by_its_name_whatever_that_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(explain, "call", lambda _method, _endpoint, path: asked.append(path) or {})
    assert run(cortex.main, "explain", "../a b", "--json") == 0
    assert asked == ["/cortex/v1/decisions/..%2Fa%20b"]
    assert capsys.readouterr().out == "{}\n"


def test_a_conversation_cannot_be_told_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert run(cortex.main, "chat", "--model", "any", "--json") == 2
    assert "give a prompt" in capsys.readouterr().err


@pytest.mark.parametrize("named", ["127.0.0.1:9", "http://127.0.0.1:9/", "http://127.0.0.1:9/v1"])
def test_a_gateway_may_be_named_as_one_would(named: str) -> None:
    assert link.url_of(named) == "http://127.0.0.1:9"


def test_what_answers_and_is_no_gateway_is_called_so() -> None:
    assert "is a gateway there?" in link.refused("http://x", 404, "<html>").message
    assert link.refused("http://x", 404, {"error": {"message": "no such model"}}).message == "no such model"


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b'"hello"'])
def test_a_program_that_answers_anything_with_200_is_called_no_gateway(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(httpx2, "request", lambda *_args, **_more: httpx2.Response(200, content=answer))
    with pytest.raises(link.GatewayRefused, match="is a gateway there"):
        link.call("GET", "http://x", "/v1/models")


@pytest.mark.parametrize("named", ["http://host:port", "http://[::1", "host:port"])
def test_an_address_that_is_none_is_told(named: str) -> None:
    with pytest.raises(link.NoGateway, match="Invalid port"):
        link.call("GET", named, "/v1/models")


@pytest.mark.parametrize("words", [["plan"], ["chat", "-e", "http://127.0.0.1:9", "hello", "-m"], ["up", "--model"]])
def test_a_word_that_is_no_text_is_a_usage_error(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    ports = [word for name in ("port", "metrics-port", "neuron-port") for word in (f"--{name}", str(free_port()))]
    named = tmp_path / "b\udcffd.gguf"
    named.touch()
    assert run(cortex.main, *words, str(named), *(ports if words[0] == "up" else ())) == 2
    assert "holds bytes that are no text here; LC_ALL=C.UTF-8" in capsys.readouterr().err


def test_an_answer_that_is_stopped_is_kept_as_far_as_it_came_and_the_command_was_interrupted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> Iterator[str]:
        yield "Once upon"
        raise KeyboardInterrupt

    monkeypatch.setattr(chat, "stream", interrupted)
    assert run(entry.cortex, "chat", "-m", "any", "Tell a story.") == 130
    assert capsys.readouterr().out == "Once upon [stopped]\n"


WRITES = r"""
import sys
from pathlib import Path
from helexa.cli import up
up._write_files(Path(sys.argv[1]), {"id": "mod\u00e8le"}, 1, 2, 3)
"""


def test_the_files_of_a_run_are_utf8_whatever_the_locale(tmp_path: Path) -> None:
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", WRITES, str(tmp_path)], env=plain, timeout=50, check=True)
    for name in ("models.toml", "neuron.toml"):
        assert "modèle" in (tmp_path / name).read_text(encoding="utf-8")


def test_why_nobody_answers_is_one_sentence() -> None:
    told = link.no_gateway("http://x", httpx2.RemoteProtocolError("Server disconnected.")).message
    assert told.startswith("No gateway answers at http://x: Server disconnected. Start one")
