"""Devices on NATS: who may log in to a nats-server, with which subjects, for how long, and what crosses from there.

docs/nats.md shows it from outside, docs/adr/0036-nats.md says why it is so. Needs the extra `nats`.
"""
