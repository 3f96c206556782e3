"""Measure how far token estimates are from a real model's counts: `python bench/tokens.py`.

What the figures mean: docs/windows.md, "How tokens are counted".
"""

import json
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import mean, quantiles
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script sees only its own folder

from convstore.messages import token_estimate, token_factor
from convstore.messages.message import Message
from demo.model import local_model

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
LATEST = 16
"""Number of turns from which a factor is learnt."""
EVALUATED = 5
"""Number of conversations that the model reads, to check that it reports what its tokenizer counts."""

Count = Callable[[Sequence[Message]], int]


@dataclass(frozen=True, slots=True)
class Sample:
    """One request: the estimate, and the model's count."""

    estimated: int
    reported: int

    @property
    def pair(self) -> tuple[int, int]:
        return self.estimated, self.reported

    def error(self, factor: float = 1.0) -> float:
        """Return the relative error of a scaled estimate; below 0, the estimate is too low."""
        return self.estimated * factor / self.reported - 1


def crosswoz(folder: Path) -> list[list[Message]]:
    """Return Chinese dialogues."""
    return [line["messages"] for line in _lines(folder / "crosswoz_val.jsonl")]


def mt_bench(folder: Path) -> list[list[Message]]:
    """Return English dialogues of two user's messages, with the reference answer to the first one if there is one."""
    conversations = []
    for line in _lines(folder / "mt_bench_questions.jsonl"):
        first, second = line["turns"]
        answers = [{"role": "assistant", "content": text} for text in line.get("reference", [])[:1] if text]
        conversations.append([{"role": "user", "content": first}, *answers, {"role": "user", "content": second}])
    return conversations


def _lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@contextmanager
def counting() -> Iterator[tuple[Count, Count]]:
    """Run the local model; yield functions for its tokenizer's count and for a reply's `prompt_tokens`."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy before a server on this machine

    def post(path: str, **body: object) -> Any:
        request = urllib.request.Request(
            base_url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with opener.open(request, timeout=300) as response:
            return json.load(response)

    def tokenized(messages: Sequence[Message]) -> int:
        return int(post("/chat/completions/input_tokens", model="smollm2", messages=messages)["input_tokens"])

    def replied(messages: Sequence[Message]) -> int:
        reply = post("/chat/completions", model="smollm2", messages=messages, max_tokens=1)
        return int(reply["usage"]["prompt_tokens"])

    with local_model() as base_url:
        yield tokenized, replied


def measure(conversation: Sequence[Message], count: Count) -> list[Sample]:
    """Return a sample for each user's message: the request that ends with it."""
    samples = []
    for place, message in enumerate(conversation, start=1):
        if message["role"] == "user":
            request = conversation[:place]
            estimated = token_estimate.TOKENS_PER_REQUEST + sum(
                token_estimate.estimate_message(each) for each in request
            )
            samples.append(Sample(estimated, count(request)))
    return samples


def before(conversations: Sequence[Sequence[Sample]], place: int) -> list[Sample]:
    """Return the latest turns of the conversations before one; the last conversation comes before the first."""
    others = chain.from_iterable(conversations[place - step] for step in range(1, len(conversations)))
    return [sample for sample, _ in zip(others, range(LATEST), strict=False)]


def scaled_errors(conversations: Sequence[Sequence[Sample]]) -> list[float]:
    """Return the error of each conversation's longest request, with a factor from other conversations."""
    return [
        samples[-1].error(token_factor.learn_token_factor([each.pair for each in before(conversations, place)]))
        for place, samples in enumerate(conversations)
    ]


def own_errors(conversations: Sequence[Sequence[Sample]]) -> list[float]:
    """Return the errors of requests, with a factor from the earlier turns of their conversation."""
    errors = []
    for samples in conversations:
        for place, sample in enumerate(samples):
            earlier = [each.pair for each in samples[max(0, place - LATEST) : place]]
            if sum(estimated for estimated, _ in earlier) >= token_factor.MIN_TOKENS_FOR_OWN_FACTOR:
                errors.append(sample.error(token_factor.learn_token_factor(earlier)))
    return errors


def strange_errors(conversations: Sequence[Sequence[Sample]], others: Sequence[Sequence[Sample]]) -> list[float]:
    """Return the errors of requests, with a factor from conversations of another kind."""
    factor = token_factor.learn_token_factor([sample.pair for sample in before([[], *others], 0)])
    return [samples[-1].error(factor) for samples in conversations]


def main() -> None:
    if not SHARED_DATA.is_dir():
        sys.exit(f"the dialogues to count are not in {SHARED_DATA}")
    sets = {"crosswoz_val": crosswoz(SHARED_DATA), "mt_bench_questions": mt_bench(SHARED_DATA)}
    measured = {}
    with counting() as (tokenized, replied):
        for name, conversations in sets.items():
            measured[name] = [measure(conversation, tokenized) for conversation in conversations]
            for conversation in conversations[:: len(conversations) // EVALUATED][:EVALUATED]:
                request = conversation[: max(n for n, each in enumerate(conversation, 1) if each["role"] == "user")]
                counted, reported = tokenized(request), replied(request)
                assert counted == reported, f"{name}: it counts {counted} tokens and reports {reported}"
    print("|error| of the estimate of a request, as a share of what the model counts")
    for name, conversations in sets.items():
        samples = measured[name]
        (other,) = [measured[each] for each in measured if each != name]
        longest = [each[-1] for each in samples]
        whole = Sample(sum(each.estimated for each in longest), sum(each.reported for each in longest))
        print(f"\n{name}: {len(conversations)} conversations, {sum(map(len, conversations)):,} messages")
        print(f"  estimated {whole.estimated:,}, counted {whole.reported:,}: {whole.error():+.1%} as it is")
        print(f"  factor {whole.reported / whole.estimated:.3f}")
        _print("as it is", [each.error() for each in longest])
        _print(f"factor of the latest {LATEST} turns of other conversations", scaled_errors(samples))
        _print(f"factor of its own turns, from {token_factor.MIN_TOKENS_FOR_OWN_FACTOR} tokens on", own_errors(samples))
        _print("factor of the other set's turns", strange_errors(samples, other))
        _print_speed(conversations)


def _print(label: str, errors: Sequence[float]) -> None:
    sizes = [abs(error) for error in errors]
    p95 = quantiles(sizes, n=20, method="inclusive")[-1]
    figures = f"mean {mean(sizes):5.1%}   95th percentile {p95:6.1%}   largest {max(sizes):6.1%}"
    print(f"  {label:53} {figures}   of {len(sizes):,}")


def _print_speed(conversations: Sequence[Sequence[Message]]) -> None:
    text = "".join(message["content"] for message in chain.from_iterable(conversations))[:100_000]
    began = time.perf_counter()
    token_estimate.estimate_text(text)
    taken = time.perf_counter() - began
    print(f"  {taken * 1e6 / len(text.encode()) * 1024:.0f} µs for 1 KB of UTF-8")


if __name__ == "__main__":
    main()
