"""The audit trail as a sealed tree (docs/protocol.md, section 8): seal and sign, prove, archive, examine.

`log.AuditLog` seals rows and signs heads, and proves; `archives` moves old rows into files; `examination` goes through
all of it and names what was changed behind the service's back.
"""
