"""What the log tells of a node that does not answer its polls as it should."""

from __future__ import annotations

import pytest

from helexa.base.clock import SystemClock
from helexa.gateway.act.neuron_client import NeuronRefused
from helexa.gateway.act.poller import NodeWatch
from helexa.gateway.config import Polling
from helexa.gateway.fleet import events as ev
from tests.gateway.plan.world import World


class Client:
    """A node behind a server that redirects."""

    name = "n1"

    async def health(self) -> None:
        raise NeuronRefused("HTTP 302", node="n1", answer_status=302)


class Dispatcher:
    def __init__(self) -> None:
        self.fleet = World({"n1": 1000}, {}).fleet
        self.told: list[ev.Missed] = []

    def tell(self, event: ev.Missed) -> None:
        self.told.append(event)


async def test_a_node_that_redirects_is_named_in_the_log_with_what_it_answers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    dispatcher = Dispatcher()
    watch = NodeWatch(Client(), dispatcher, Polling(), SystemClock())  # pyright: ignore[reportArgumentType]
    await watch.poll()
    assert caplog.messages == ["n1: it answers a poll with HTTP 302: HTTP 302"]
    assert [missed.reason for missed in dispatcher.told] == ["it answers a poll with HTTP 302: HTTP 302"]
