"""The `attestd` command. Only wiring: options in, verbs called, words or JSON out."""

from attestd.cli.main import main

__all__ = ["main"]
