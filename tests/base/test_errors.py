"""The error tree: facts in fields, a message from the docstring, a status and a code on every leaf."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helexa.base import errors
from helexa.base.errors import (
    BodyTooLarge,
    ConfigError,
    HelexaError,
    InvalidRequest,
    Refused,
    Unavailable,
    UnknownModel,
)


def leaves(kind: type[HelexaError] = HelexaError) -> Iterator[type[HelexaError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from leaves(child)


@pytest.mark.parametrize("kind", list(leaves()))
def test_every_error_can_be_made_of_nothing_and_says_something(kind: type[HelexaError]) -> None:
    error = kind()
    assert error.message
    assert "{" not in error.message
    assert 400 <= error.status <= 599
    assert error.code.replace("_", "").isalpha()


def test_the_message_is_the_docstring_filled_from_the_fields() -> None:
    error = Unavailable(model="a/b", reason="loading", retry_after=2.5)
    assert error.message == "The model `a/b` cannot be served right now: loading."
    assert (error.retry_after, error.fields) == (2.5, {"model": "a/b", "reason": "loading"})


def test_a_field_that_was_not_given_is_a_question_mark() -> None:
    assert UnknownModel(model="a/b").message == "The model `a/b` does not exist. ?"


def test_a_message_of_its_own_wins_and_the_fields_stay() -> None:
    error = Refused("no room", kind="does_not_fit", needed_mb=9)
    assert (str(error), error.fields["needed_mb"], error.status) == ("no room", 9, 422)


def test_a_value_with_braces_is_not_a_template() -> None:
    assert ConfigError(path="x.toml", problem="odd {key}").message == "x.toml: odd {key}"


def test_an_invalid_request_names_its_parameter_or_none() -> None:
    assert InvalidRequest(param="messages.3").param == "messages.3"
    assert InvalidRequest().param is None
    assert BodyTooLarge(limit_mib=64).status == 413
