"""The published document: current, and true of a real gateway with a real neuron behind it, whatever it is asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi import checks

from helexa.gateway.edge import openapi
from helexa.testing.fleet import Fleet

from .test_fleet import DEVICE, echo

CHECKED_IN = Path(__file__).parents[2] / "docs/reference/openapi.json"
DOCUMENT = schemathesis.openapi.from_dict(json.loads(openapi.document()))
MODEL = "echo"
HERE = {"model": MODEL, "node": "n1"}
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
FEW = settings(
    max_examples=15, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
)
MANY = settings(FEW, max_examples=150)
OPERATIONS = [found.ok() for found in DOCUMENT.get_all_operations()]
NEED_MORE = {"/v1/rerank", "/cortex/v1/pin"}  # than is there: a model that ranks, one that is surely loaded
EXEMPLARY = [operation for operation in OPERATIONS if operation.body and operation.path not in NEED_MORE]
SERVED = [operation for operation in EXEMPLARY if "model" in openapi.EXAMPLES[operation.path]]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway and a neuron as processes of their own, for all of these tests."""
    with asyncio.Runner() as runner:
        fleet = Fleet(tmp_path_factory.mktemp("fleet"), neurons={"n1": DEVICE}, models=echo(MODEL, memory_mb=100))
        runner.run(fleet.__aenter__())
        try:
            yield fleet.url
        finally:
            runner.run(fleet.stop())


def test_the_document_that_is_checked_in_is_current() -> None:
    assert CHECKED_IN.read_bytes() == openapi.document(), "renew it with `make openapi`"


def ask(operation: APIOperation, url: str, how: settings) -> set[int]:
    """Anything at all for this operation, of which much names the model that is there. Returns what it answered."""
    answered: set[int] = set()
    valid = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    broken = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

    @how
    @given(valid | broken if operation.body else valid)
    def asked(case: Case) -> None:
        if isinstance(case.body, dict) and case.body.get("model"):
            case.body["model"] = MODEL
        answered.add(case.call_and_validate(base_url=url, checks=CHECKS, timeout=20).status_code)

    asked()
    return answered


@pytest.mark.timeout(60)
@pytest.mark.parametrize("operation", OPERATIONS, ids=[operation.label for operation in OPERATIONS])
def test_every_operation_answers_as_documented_and_never_fails(url: str, operation: APIOperation) -> None:
    assert ask(operation, url, FEW)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("operation", SERVED, ids=[operation.label for operation in SERVED])
def test_whatever_is_generated_is_answered_as_documented_and_some_of_it_with_success(
    url: str, operation: APIOperation
) -> None:
    assert min(ask(operation, url, MANY)) < 300


@pytest.mark.parametrize("operation", EXEMPLARY, ids=[operation.label for operation in EXEMPLARY])
def test_every_example_is_answered_with_success(url: str, operation: APIOperation) -> None:
    body = {name: HERE.get(name, value) for name, value in openapi.EXAMPLES[operation.path].items()}
    answer = httpx2.request(operation.method.upper(), f"{url}{operation.path}", json=body, timeout=20)
    assert answer.is_success, answer.text
