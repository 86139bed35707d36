"""attestd: which machine is it, is it in the state we trust, and may this cross here?"""

__version__ = "0.1.0"  # as in pyproject.toml
