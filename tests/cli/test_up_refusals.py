"""What `cortex up` refuses before it starts anything."""

from __future__ import annotations

import socket

import pytest

from helexa.cli import cortex
from helexa.testing.fleet import free_port

from .run import run


def test_a_port_that_is_given_twice_is_refused_with_the_options_to_choose_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    port = free_port()
    assert run(cortex.main, "up", "--port", str(port), "--neuron-port", str(port + 1)) == 1
    told = capsys.readouterr().err
    assert f"metrics {port + 1}" in told
    assert "--metrics-port" in told


def test_a_port_that_somebody_listens_on_is_refused_with_the_option_to_choose_another(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ours = [free_port(), free_port()]
        words = ["--port", str(ours[0]), "--metrics-port", str(ours[1]), "--neuron-port", str(port)]
        assert run(cortex.main, "up", *words) == 1
    assert f"port {port} (for the neuron) is in use" in capsys.readouterr().err
