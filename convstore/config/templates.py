"""Read and write the templates that new conversations are made from.

::

    # templates/translator.toml
    system = "Translate into $language. Keep the tone $tone."
    model = "gpt-4o-mini"
    title = "Translations into $language"

    [variables]                     # values of variables that are not given
    tone = "polite"

    [parameters]                    # completion parameters that the conversation keeps
    temperature = 0.2

    [window]                        # options of the window that the conversation keeps
    max-context = 8000

    [[tools]]                       # tools, as the API takes them
    type = "function"
    [tools.function]
    name = "dictionary"
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from convstore.config.user_folders import find_user_folder, require_config_folder, write_private_file
from convstore.errors import InvalidInput

if TYPE_CHECKING:
    from convstore.config.toml_files import TomlFile

_SUFFIX = ".toml"
_TEXT_KEYS = ("system", "model", "title")
_TABLE_KEYS = ("variables", "parameters", "window")
_KEYS = (*_TEXT_KEYS, *_TABLE_KEYS, "tools")
_NAME = re.compile(r"\w[\w.-]{0,99}")

NEW_TEMPLATE_TEXT = """\
# A template. $topic is a variable: convstore new --template NAME --var topic=Olympics
system = "You are an expert for $topic."
# model = "gpt-4o-mini"
# title = "About $topic"

# [variables]             # values of variables that are not given
# topic = "everything"

# [parameters]            # completion parameters that the conversation keeps
# temperature = 0.2
"""


@dataclass(frozen=True, slots=True)
class ConversationTemplate:
    """What a new conversation is made from."""

    name: str
    file: TomlFile
    texts: Mapping[str, str]
    """The system message, the model and the title, with variables."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Values of variables that are not given."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    window: Mapping[str, Any] = field(default_factory=dict)
    """The options of the window, by the names of the command line: `max-context`."""

    @property
    def variable_names(self) -> list[str]:
        """The names of the variables, in the order of the texts."""
        names = [name for text in self.texts.values() for name in Template(text).get_identifiers()]
        return list(dict.fromkeys(names))

    def fill(self, values: Mapping[str, str]) -> dict[str, str]:
        """Return the texts with the values of their variables.

        Raises:
            InvalidInput: a variable has no value, or the template has no variable of a name.
        """
        known = self.variable_names
        unknown = [name for name in values if name not in known]
        if unknown:
            has = f"its variables are {', '.join(known)}" if known else "it has none"
            raise InvalidInput(f"template '{self.name}' has no variable '{unknown[0]:.80}'; {has}")
        given = {**self.variables, **values}
        missing = [name for name in known if name not in given]
        if missing:
            options = " ".join(f"--var {name}=…" for name in missing)
            raise InvalidInput(f"template '{self.name}' needs {', '.join(missing)}: add {options}")
        return {key: Template(text).substitute(given) for key, text in self.texts.items()}


def find_template_file(name: str) -> Path:
    """Return the path of a template, which need not exist.

    Raises:
        InvalidInput: no file can have the name, or the home directory is unknown.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"the name of a template has letters, digits, _, - and dots, not '{name:.80}'")
    return require_config_folder() / "templates" / f"{name}{_SUFFIX}"


def list_template_names() -> list[str]:
    """Return the names of all templates, sorted."""
    folder = find_user_folder("user_config_dir")
    try:
        files = list((folder / "templates").iterdir()) if folder is not None else []
    except OSError:
        return []
    return sorted(file.stem for file in files if file.suffix == _SUFFIX and _NAME.fullmatch(file.stem))


def read_template(name: str) -> ConversationTemplate:
    """Return a template.

    Raises:
        InvalidInput: the template does not exist, or has a mistake; the text names the line.
    """
    from convstore.config.toml_files import read_toml

    file = read_toml(find_template_file(name))
    if file is None:
        names = list_template_names()
        known = f"the templates are {', '.join(names)}" if names else "no template exists yet"
        raise InvalidInput(f"there is no template '{name}'; {known}; `convstore templates edit {name}` makes it")
    return check_template(name, file)


def check_template(name: str, file: TomlFile) -> ConversationTemplate:
    """Return the template that a file holds.

    Raises:
        InvalidInput: the file has a mistake; the text names the line.
    """
    top = file.check_keys((), _KEYS)
    texts = {key: _check_text(file, key, top[key]) for key in _TEXT_KEYS if key in top}
    for key in _TABLE_KEYS:
        if key in top and not isinstance(top[key], Mapping):
            raise file.make_error((key,), f"'{key}' must be a table, such as [{key}]")
    for key, value in top.get("variables", {}).items():
        if not isinstance(value, str):
            raise file.make_error(("variables", key), f"the value of '{key}' must be a text in quotes")
    parameters = dict(top.get("parameters", {}))
    if "model" in parameters:
        raise file.make_error(("parameters", "model"), "write 'model' at the top of the file")
    if "tools" in top:
        tools = top["tools"]
        if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
            raise file.make_error(("tools",), "'tools' must be tables, such as [[tools]]")
        parameters["tools"] = tools
    return ConversationTemplate(name, file, texts, dict(top.get("variables", {})), parameters, top.get("window", {}))


def _check_text(file: TomlFile, key: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise file.make_error((key,), f"'{key}' must be a text in quotes")
    if not Template(value).is_valid():
        raise file.make_error((key,), f"'{key}' has a $ that begins no variable: write $$ for a dollar sign")
    return value


def write_template(name: str, text: str) -> None:
    """Write the file of a template.

    Raises:
        InvalidInput: the text has a mistake, and names its line; nothing was changed.
    """
    from convstore.config.toml_files import parse_toml

    path = find_template_file(name)
    check_template(name, parse_toml(path, text.encode()))
    write_private_file(path, text)


def delete_template(name: str) -> None:
    """Remove the file of a template.

    Raises:
        InvalidInput: the template does not exist, or cannot be removed.
    """
    path = find_template_file(name)
    try:
        path.unlink()
    except FileNotFoundError:
        raise InvalidInput(f"there is no template '{name}'") from None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be removed: {error.strerror}") from None
