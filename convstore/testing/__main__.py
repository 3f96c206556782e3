"""``python -m convstore.testing``: a model that echoes, for trying convstore without one."""

from __future__ import annotations

import argparse
import sys
import threading

from convstore.testing.responses import Reply
from convstore.testing.server import ChatServer


def main() -> None:
    """Serve until Ctrl-C; the base URL is the only line on stdout."""
    parser = argparse.ArgumentParser(
        prog="python -m convstore.testing",
        description="A Chat Completions server that echoes. It prints its base URL, for OPENAI_BASE_URL.",
    )
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--reply", metavar="TEXT", help="always answer this")
    options = parser.parse_args()
    try:
        server = ChatServer(port=options.port)
    except (OSError, OverflowError) as error:
        parser.error(f"cannot listen on port {options.port}: {error}")
    # From here on, Ctrl-C may come at any moment, also while the line is printed or the server closes.
    try:
        with server:
            if options.reply is not None:
                server.otherwise = lambda _: Reply(options.reply)
            sys.stdout.write(server.url + "\n")
            sys.stdout.flush()
            threading.Event().wait()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
