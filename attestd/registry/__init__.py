"""The registry: tables, every query, the audit trail and the migrations.

`engine.Registry` opens the database. One module an aggregate; its functions take the connection of a transaction that
the caller holds, so that a caller can do several things at once or none of them.
"""
