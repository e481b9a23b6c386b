"""What an engine does not see to is named, or refused where its loss would change the meaning."""

from __future__ import annotations

import pytest

from helexa.base.errors import InvalidRequest
from helexa.neuron.core import unheard

ASKS = {"logit_bias": {"5": -100}, "top_logprobs": 3, "json_schema": {"type": "object"}, "echo": True, "suffix": "}",
        "n_cache_reuse": 1, "dimensions": 64, "best_of": 2, "guided_choice": ["a"], "tools": [{}],
        "response_format": {"type": "json_object"}}  # fmt: skip
ASKS_NOTHING = {"logit_bias": {}, "top_logprobs": 0, "json_schema": None, "echo": False, "suffix": "",
                "n_cache_reuse": 0, "dimensions": None, "best_of": 1, "guided_choice": None, "tools": [],
                "response_format": {"type": "text"}}  # fmt: skip


@pytest.mark.parametrize("name", ASKS)
def test_a_field_whose_loss_would_change_the_meaning_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        unheard.check(ASKS, [name])
    assert refused.value.fields["param"] == name


def test_fields_that_ask_for_nothing_pass() -> None:
    unheard.check(ASKS_NOTHING, ASKS_NOTHING)


def test_a_matter_of_taste_passes() -> None:
    unheard.check({"typical_p": 0.5, "dry_multiplier": 1}, ["typical_p", "dry_multiplier"])


@pytest.mark.parametrize("fields", [{"best_of": 3, "n": 3}, {"best_of": None}, {"best_of": 1, "n": None}])
def test_the_best_of_as_many_as_are_given_passes(fields: dict[str, object]) -> None:
    unheard.check(fields, ["best_of"])
