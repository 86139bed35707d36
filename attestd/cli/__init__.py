"""The `attestd` command. Only wiring: options in, verbs called, words or JSON out.

`main` has the table of contents. It is not imported here: workers are made from this room and need no command line.
"""
