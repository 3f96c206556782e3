"""Test that random ids are easy to type and unique."""

from convstore.values.identifiers import make_conversation_id
from convstore.values.validation import is_key


def test_random_ids_are_easy_to_type_and_differ_in_their_first_characters() -> None:
    ids = [make_conversation_id() for _ in range(2_000)]
    assert len(set(ids)) == len(ids)
    assert all(len(id) == 12 and is_key(id) for id in ids)
    assert not set("".join(ids)) & set("aeiou01l")
    assert len({id[0] for id in ids}) > 20  # ids that are ordered by time would begin with the same character
    assert len({id[:4] for id in ids}) > 1_900
