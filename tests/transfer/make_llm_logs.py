"""Make the `logs.db` files in `data/` with real releases of `llm`. No test runs this.

    python -m venv old && old/bin/pip install llm==0.31 httpx && old/bin/python make_llm_logs.py data/llm-0.31.db
    python -m venv new && new/bin/pip install llm==0.36 && new/bin/python make_llm_logs.py data/llm-0.36.db
    cp data/llm-0.31.db data/llm-upgraded.db && new/bin/python make_llm_logs.py data/llm-upgraded.db
    gzip -9n data/*.db

Given a file that exists, it upgrades it and goes on with its first conversation.
"""

import base64
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import llm
import sqlite_utils
from llm.cli import load_conversation
from llm.migrations import migrate
from llm.utils import Fragment

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Scripted(llm.Model):  # type: ignore[misc]
    """A model that answers from a script."""

    model_id = "scripted"
    can_stream = False
    supports_schema = True
    supports_tools = True
    attachment_types = frozenset({"image/png", "application/pdf", "audio/wav"})

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def execute(self, prompt: Any, stream: Any, response: Any, conversation: Any) -> Iterator[Any]:
        answer = self.answers.pop(0)
        words, calls = answer if isinstance(answer, tuple) else (answer, [])
        for number, (name, arguments) in enumerate(calls):
            call = llm.ToolCall(name=name, arguments=arguments, tool_call_id=f"call_{name}_{number}")
            response.add_tool_call(call)
        response.set_usage(input=3, output=5)
        if words == "A thought." and hasattr(llm, "user"):
            from llm.parts import StreamEvent

            yield StreamEvent(type="reasoning", chunk="Let me think.")
        yield words


def weather(city: str) -> str:
    """Return the weather in a city."""
    return f"21 degrees in {city}"


def picture() -> Any:
    """Draw a picture."""
    return llm.ToolOutput("here it is", attachments=[llm.Attachment(content=PIXEL, type="image/png")])


def keep(response: Any, database: Any) -> Any:
    response.text()
    response.log_to_db(database)
    return response


def fill(database: Any) -> None:
    capital = Scripted("Paris.", "About two million.").conversation()
    keep(capital.prompt("Capital of France?", system="Answer in one word."), database)
    keep(capital.prompt("How many people live there?"), database)

    calls = [("weather", {"city": "Rome"}), ("weather", {"city": "Oslo"}), ("picture", {})]
    tools = Scripted(("I will look.", calls), "Both 21 degrees.").conversation(tools=[weather, picture])
    keep(tools.chain("Weather in Rome and Oslo?"), database)

    files = Scripted("A red dot.", "A thought.").conversation()
    attachments = [
        llm.Attachment(content=PIXEL, type="image/png"),
        llm.Attachment(url="https://example.org/cat.png", type="image/png"),
        llm.Attachment(content=b"%PDF-1.4 small", type="application/pdf"),
    ]
    keep(files.prompt("What is this?", attachments=attachments), database)
    story, kind = Fragment("A long story about 天气.", "story.txt"), Fragment("Be kind.", "kind.txt")
    keep(files.prompt("And this text?", fragments=[story], system_fragments=[kind]), database)

    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    keep(Scripted('{"name": "Rex"}').prompt("A dog", schema=schema), database)

    if hasattr(llm, "user"):  # 0.32 and newer keep a tree
        from llm.logs import LogStore

        count = Scripted("One.", "Two.").conversation()
        first = keep(count.prompt("Count."), database)
        keep(first.reply("Again."), database)
        turns = database.query("select tip_message_hash from turns where thread_id = ?", [count.id])
        LogStore(database).fork(next(turns)["tip_message_hash"], name="A fork", forked_from=count.id)


def go_on(database: Any, path: str) -> None:
    found = next(database.query("select conversation_id as id from responses order by rowid"))["id"]
    with mock.patch("llm.models.get_model", create=True), mock.patch("llm.get_model", return_value=Scripted("Yes.")):
        conversation = load_conversation(found, database=path)
        keep(conversation.prompt("Which country again?"), database)


def main(path: str) -> None:
    is_new = not Path(path).exists()
    database = sqlite_utils.Database(path)
    migrate(database)
    if is_new:
        fill(database)
    else:
        go_on(database, path)
    database.conn.close()
    with sqlite3.connect(path) as connection:
        connection.execute("vacuum")


if __name__ == "__main__":
    main(sys.argv[1])
