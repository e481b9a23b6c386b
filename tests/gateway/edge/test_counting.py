"""Token counts: of a warm model, of a cold one without waking it, and of one whose files are nowhere."""

from __future__ import annotations

import pytest

from helexa.testing.neuron import Says

from .conftest import COLD, WARM, Edge

COUNT, RESPONSES = "/v1/messages/count_tokens", "/v1/responses/input_tokens"
ASK = b'{"model":"%b","messages":[{"role":"user","content":"hello"}]}'


@pytest.mark.parametrize("model", [WARM, COLD, "an alias"])
async def test_a_count_wakes_nobody(edge: Edge, model: str) -> None:
    answer = await edge.post(COUNT, ASK % model.encode())
    assert (answer.status_code, answer.json()) == (200, {"input_tokens": 7})
    assert not edge.neuron.asked("/models/load")


async def test_a_responses_count_has_the_shape_of_its_dialect(edge: Edge) -> None:
    answer = await edge.post(RESPONSES, b'{"model":"%b","input":"hello"}' % COLD.encode())
    assert answer.json() == {"object": "response.input_tokens", "input_tokens": 7}


async def test_a_model_whose_files_are_nowhere_is_loaded_to_be_counted(edge: Edge) -> None:
    edge.neuron.models[COLD].on_disk = False
    answer = await edge.post(COUNT, ASK % COLD.encode())
    assert (answer.status_code, answer.json()) == (200, {"input_tokens": 7})
    assert edge.neuron.loaded == [WARM, COLD]


async def test_what_the_template_refuses_is_the_clients_to_hear_and_loads_nothing(edge: Edge) -> None:
    edge.neuron.fault("/models/count_tokens", Says(status=400, body=b'{"error":"no system messages here"}'))
    answer = await edge.post(COUNT, ASK % COLD.encode())
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert "no system messages here" in answer.json()["error"]["message"]
    assert not edge.neuron.asked("/models/load")


async def test_a_bad_count_is_refused_by_name(edge: Edge) -> None:
    answer = await edge.post(COUNT, b'{"model":"org/warm","messages":5}')
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("messages: ")
    assert (await edge.http.get(COUNT)).status_code == 405
