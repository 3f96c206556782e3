"""Run the command line as `python -m convstore`."""

from convstore.cli import main

main()
