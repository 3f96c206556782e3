"""Define options and arguments that several commands share.

The name of a decorator is a noun, as in click (`@click.option`); the name of any other function begins with a verb.
"""
