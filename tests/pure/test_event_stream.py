"""Test the decoder of server-sent events."""

from __future__ import annotations

import pytest

from convstore.provider.event_stream import DONE, EventDecoder, StreamError, parse_event

STREAM = (
    b': ping\r\n\r\ndata: {"a": 1}\r\n\r\nevent: x\ndata:{"b":\ndata: 2}\n\n'
    b"id: 7\rdata: \xe4\xbd\xa0\xe5\xa5\xbd\r\rdata: [DONE]\n\n"
)
EVENTS = ['{"a": 1}', '{"b":\n2}', "你好", "[DONE]"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
def test_events_are_the_same_however_the_bytes_are_cut(size: int) -> None:
    decoder = EventDecoder()
    pieces = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]
    assert [event for piece in pieces for event in decoder.decode(piece)] == EVENTS


def test_an_event_without_its_end_is_not_an_event() -> None:
    assert EventDecoder().decode(b'data: {"a": 1}\n') == []


def test_done_is_recognised() -> None:
    assert parse_event("[DONE]") is DONE


@pytest.mark.parametrize(
    ("data", "text", "code"),
    [
        ('{"error": {"message": "Overloaded", "code": 502}}', "Overloaded", 502),
        ('{"error": "Overloaded"}', "Overloaded", None),
        ('{"object": "error", "message": "No room", "code": 500}', "No room", 500),
    ],
)
def test_an_error_keeps_the_providers_text(data: str, text: str, code: object) -> None:
    with pytest.raises(StreamError, match=text) as caught:
        parse_event(data)
    assert caught.value.code == code
