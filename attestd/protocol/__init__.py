"""The protocol's words on the wire: encodings, derivations, messages. Pure; the service and the agent share it.

Normative text: docs/protocol.md. Vectors: tests/vectors/protocol/.
"""
