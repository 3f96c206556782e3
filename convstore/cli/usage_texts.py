"""Say in the words of this program what click says about wrong options and arguments."""

from __future__ import annotations

import re

import click

_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL), text)
    for pattern, text in (
        (r"No such command (.+?)\.?(?: \(?Did you mean (.+)\?\)?)?", r"no command \1"),
        (r"Got unexpected extra arguments? \((.+)\)", r"unexpected argument: \1"),
        (r"Option '(.+)' requires an argument\.?", r"\1 needs a value"),
        (r"Option '(.+)' requires (\d+) arguments\.?", r"\1 needs \2 values"),
        (r"Option '(.+)' does not take a value\.?", r"\1 takes no value"),
        (r"Argument '(.+)' takes (\d+) values\.?", r"\1 needs \2 values"),
        (r"Missing (?:argument|option|parameter) '(.+?)\.*'\.(?: (.*))?", r"\1 is missing"),
        (r"Missing command\.?", r"the command is missing"),
    )
)
_VALUE_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL), text)
    for pattern, text in (
        (r"(.+) is not a valid integer(?: range)?", r"\1 is not a whole number"),
        (r"(.+) is not a valid float(?: range)?", r"\1 is not a number"),
        (r"(.+) is not in the range x>=(.+)", r"\1 is less than \2"),
        (r"(.+) is not in the range (.+)<=x<=(.+)", r"\1 is not between \2 and \3"),
    )
)


def describe_usage_error(error: click.UsageError) -> str:
    """Return what is wrong, without a full stop at the end."""
    if isinstance(error, click.NoSuchOption):
        similar = f"; did you mean {error.possibilities[0]}?" if error.possibilities else ""
        return f"no option '{error.option_name}'{similar}"
    if isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter):
        name = _name_parameter(error)
        text = describe_bad_value(error.message)
        return f"{name}: {text}" if name else text
    return _rephrase(error.format_message(), _RULES)


def describe_bad_value(message: str) -> str:
    """Return what a type of click says about a value, without a full stop at the end."""
    return _rephrase(message, _VALUE_RULES)


def _name_parameter(error: click.BadParameter) -> str:
    """Return the option or the argument, as people type it."""
    if isinstance(error.param, click.Option):
        return max(error.param.opts, key=len)
    hint = error.param_hint or (error.param.human_readable_name if error.param is not None else "")
    return (hint if isinstance(hint, str) else " ".join(hint)).rstrip(".")


def _rephrase(text: str, rules: tuple[tuple[re.Pattern[str], str], ...]) -> str:
    text = text.strip()
    plain = text.removesuffix(".") if not text.endswith("..") else text
    for pattern, words in rules:
        found = pattern.fullmatch(plain) or pattern.fullmatch(text)
        if found is not None:
            return found.expand(words)
    return plain[:1].lower() + plain[1:] if re.match(r"[A-Z][a-z]", plain) else plain
