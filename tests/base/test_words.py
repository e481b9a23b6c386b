"""What several have said is told in one line."""

from __future__ import annotations

from helexa.base.words import counted, together


def test_those_who_say_the_same_are_named_together_in_the_order_they_spoke() -> None:
    assert together([("n1", "too small"), ("n2", "away"), ("n3", "too small")]) == "n1, n3: too small; n2: away"
    assert together([]) == ""


def test_one_is_not_many() -> None:
    assert (counted(1, "more node"), counted(0, "more node")) == ("1 more node", "0 more nodes")
