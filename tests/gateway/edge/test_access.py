"""The access log: one line a request, whatever a client calls its model."""

from __future__ import annotations

from typing import Literal

import msgspec
import pytest

from helexa.gateway.edge.access import AccessLog
from helexa.gateway.meter import Journey, Usage

Style = Literal["human", "json"]


def said(capsysbinary: pytest.CaptureFixture[bytes], style: Style, *journeys: Journey) -> list[str]:
    usage = Usage(prompt_tokens=9, completion_tokens=3)
    AccessLog(style).write([(journey, 200, None, usage, journey.began + 1.5) for journey in journeys])
    return capsysbinary.readouterr().err.decode().splitlines()


def journey(asked: str = "m", *, model: str = "") -> Journey:
    made = Journey(10.0, "req_1", "d-1", "/v1/chat/completions", asked, True)
    made.model, made.first = model, 10.25
    return made


def test_a_line_tells_the_way_the_times_and_the_tokens(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    (line,) = said(capsysbinary, "human", journey(model="smol"))
    assert line.split(" ", 1)[1] == "200 /v1/chat/completions smol @- 1500ms ttft=250ms tokens=9(0)>3 ok req_1"


@pytest.mark.parametrize("asked", ["two\nlines", "a\rb", "a\0b"])
@pytest.mark.parametrize("style", ["human", "json"])
def test_what_a_client_makes_up_as_a_model_stays_on_its_line(
    capsysbinary: pytest.CaptureFixture[bytes], style: Style, asked: str
) -> None:
    assert len(said(capsysbinary, style, journey(asked), journey())) == 2


def test_the_json_lines_have_a_field_for_everything(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    (line,) = said(capsysbinary, "json", journey(model="smol"))
    row = msgspec.json.decode(line)
    assert (row["model"], row["duration_s"], row["ttft_s"], row["completion_tokens"]) == ("smol", 1.5, 0.25, 3)
