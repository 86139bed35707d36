"""Receipts of what crosses here: signed and chained, on the disk before anything passes, delivered to the service.

crossings: what is said of a crossing. keeper: signs and chains, many at a time. spool: the chain that this process
writes. folders: what lies on the disk, for whoever reads it. delivery: takes it to the service. docs/receipts.md.
"""
