"""`convstore completion`."""

from __future__ import annotations

import click

from convstore.cli.options.help_text import format_examples
from convstore.cli.render.output_streams import write_answer


@click.command(
    epilog=format_examples(
        "echo 'eval \"$(convstore completion bash)\"' >> ~/.bashrc",
        "echo 'eval \"$(convstore completion zsh)\"' >> ~/.zshrc",
        "convstore completion fish > ~/.config/fish/completions/convstore.fish",
    )
)
@click.argument("shell", metavar="bash|zsh|fish", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes commands in a shell.

    Tab then completes commands and options, and from the database names, ids with titles, models, tags and templates.
    """
    from click.shell_completion import get_completion_class

    from convstore.cli import convstore
    from convstore.cli.options.bash_words import complete_by_line

    complete_by_line()
    kind = get_completion_class(shell)
    if kind is None:  # a release of click without this shell
        raise click.UsageError(f"click completes nothing in {shell}.")
    write_answer(kind(convstore, {}, "convstore", "_CONVSTORE_COMPLETE").source(), newline=False)
