"""Test that sessions of aichat are read."""

import sys
from pathlib import Path

import pytest

from convstore.transfer.aichat_sessions import read_aichat_sessions
from convstore.transfer.imported import ImportedConversation, Problem
from convstore.transfer.recognition import recognise_kind
from tests.transfer.damage import check_damaged, check_whole, read_all

SESSION = """\
model: openai:gpt-4o
temperature: 0.5
role_name: weather
compressed_messages:
- role: user
  content: Hello
- role: assistant
  content: |-
    Hi there,
    how are you?
messages:
- role: system
  content: 'They greeted: twice.'
- role: user
  content:
  - type: text
    text: What is it?
  - type: image_url
    image_url:
      url: data:image/png;base64,AAAA
- role: tool
  content:
    tool_results:
    - call:
        name: look
        arguments:
          at: sky
        id: null
      output:
        colour: blue
    - call:
        name: name
        arguments: {}
        id: call_x
      output: null
    text: I look.
    sequence: false
- role: assistant
  content: Blue.
"""


def test_a_session_is_read_with_what_a_summary_replaced(tmp_path: Path) -> None:
    path = tmp_path / "greeting.yaml"
    path.write_text(SESSION)

    (found,) = read_all(read_aichat_sessions(path))

    def call(id: str, name: str, arguments: str) -> dict[str, object]:
        return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}

    assert [message.message for message in found.messages] == [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi there,\nhow are you?"},
        {"role": "system", "content": "They greeted: twice."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is it?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            ],
        },
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [call("call_1", "look", '{"at": "sky"}'), call("call_x", "name", "{}")],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": '{"colour": "blue"}'},
        {"role": "tool", "tool_call_id": "call_x", "content": "null"},
        {"role": "assistant", "content": "Blue."},
    ]
    assert [message.parent for message in found.messages[1:]] == [message.id for message in found.messages[:-1]]
    assert (found.title, found.model, found.metadata) == ("greeting", "openai:gpt-4o", {"role": "weather"})
    assert found.head == found.messages[-1].id
    assert recognise_kind(path) == "aichat"
    assert read_all(read_aichat_sessions(tmp_path)) == [found]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", "is not YAML: "),
        ("messages: 5", "is no session of aichat"),
        ("messages:\n- &a {role: user, content: Hi}\n- *a\n", "holds an alias of YAML, which aichat does not write"),
        ("messages:\n- role: user\n  content: 2024-01-01\n", "message 1 has values that JSON does not have"),
        ("messages:\n- role: bot\n  content: Hi\n", "message 1 has the role 'bot', which is none of Chat Completions"),
        ("messages:\n- Hi\n", "has a message that is not an object"),
        ("messages:\n- role: user\n  content:\n  - {a: " + "[" * 120 + "]" * 120 + "}", "message 1 has values"),
        ("[" * 100_000, "is not YAML: "),
        ("a: " + "9" * 5000, "is not YAML: "),
    ],
)
def test_what_is_no_session_is_a_problem(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)

    (problem,) = check_whole(read_aichat_sessions(path))

    assert isinstance(problem, Problem)
    assert problem.reason.startswith(reason)


def test_an_empty_session_is_no_conversation_and_a_large_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("model: x\nmessages: []\n")
    assert list(read_aichat_sessions(path)) == []

    path.write_text("a: " + "x" * (16 * 2**20))
    assert list(read_aichat_sessions(path)) == [Problem(str(path), "is larger than 16 MB")]


def test_without_the_library_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(SESSION)
    monkeypatch.setitem(sys.modules, "yaml", None)

    assert list(read_aichat_sessions(path)) == [Problem(str(path), "is YAML; install `pyyaml` to read it")]


def test_damaged_sessions_give_problems_and_whole_conversations(tmp_path: Path) -> None:
    problems, conversations = check_damaged(tmp_path / "a.yaml", SESSION.encode(), read_aichat_sessions)

    assert problems > 100
    assert conversations > 30


def test_a_longer_version_of_a_session_keeps_its_id(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    found: list[ImportedConversation] = []
    for text in (SESSION, SESSION + "- role: user\n  content: Thanks\n"):
        path.write_text(text)
        found += read_all(read_aichat_sessions(path))

    shorter, longer = found
    assert longer.id == shorter.id
    assert list(longer.messages[:-1]) == list(shorter.messages)
