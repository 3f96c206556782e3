"""Test that the hot paths need no more of the processor's instructions than `bench/instructions.json` has.

If one does, look at what was added. If it is worth its cost, store the new counts (`make instructions STORE=1`), and
say so in the commit. Where valgrind is not installed nothing is counted, and the end of the run says so.
"""

import json

import pytest

from bench import instructions
from bench.instructions import BARE, STORED, find_grown, make_ratios


def test_no_hot_path_needs_a_tenth_more_instructions_than_stored() -> None:
    valgrind = instructions.find_valgrind()
    if valgrind is None:
        return
    ratios, stored = make_ratios(instructions.count_instructions(valgrind)), instructions.read_stored()

    assert ratios.keys() == stored.keys()
    assert find_grown(ratios, stored) == []
    fewer = [act for act, ratio in ratios.items() if ratio < 0.7 * stored[act]]
    assert fewer == [], "store the new counts"


def test_the_same_acts_are_stored_for_every_python() -> None:
    every = json.loads(STORED.read_text()).values()
    assert len({tuple(sorted(acts)) for acts in every}) == 1


@pytest.mark.parametrize(
    ("counted", "grown"),
    [(109, []), (111, ["say (10.00, now 11.10)"]), (50, [])],
)
def test_an_act_that_needs_more_than_a_tenth_more_is_named(counted: int, grown: list[str]) -> None:
    ratios = make_ratios({BARE: 10, "say": counted, "get": 10})

    assert find_grown(ratios, {"say": 10.0, "get": 1.0}) == grown
