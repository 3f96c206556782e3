"""`python -m convstore` is `convstore`."""

from convstore.cli import main

main()
