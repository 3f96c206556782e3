"""Options and arguments that several commands share.

Decorators are named with nouns, as click's own are (`@click.option`); other functions with verbs.
"""
