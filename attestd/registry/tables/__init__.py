"""The tables. They describe what is stored; only the modules of `registry` read and write them, with Core statements.

Times are whole unix seconds, binary values are octets, open-ended facts are JSON. Nothing here is SQLite's alone.
The same schema is written by hand in `migrations/`; a test compares the two. A module a subject; whoever imports one
has them all, so that the metadata is always whole.
"""

from __future__ import annotations

from sqlalchemy import String
from sqlmodel import AutoString

from attestd.registry.tables.appraising import (
    attestation_runs,
    contents,
    differing,
    endorsements,
    evidence,
    ima_parts,
    reference_manifests,
    tpm_makers,
    watched,
)
from attestd.registry.tables.edges import (
    bundles,
    edge_counts,
    edge_reports,
    policies,
    proxies,
    receipt_chains,
    receipts,
)
from attestd.registry.tables.fleet import (
    blocked_eks,
    brake,
    demands,
    device_terms,
    devices,
    fleet_changes,
    fleet_counts,
    held,
    quarantines,
)
from attestd.registry.tables.issuing import issued, revocations, spends
from attestd.registry.tables.outcomes import refusal_counts, refusals, result_counts, result_marks
from attestd.registry.tables.people import console_sessions, identities, invitations, once, operators, passkeys
from attestd.registry.tables.progress import counters, told
from attestd.registry.tables.stored import METADATA
from attestd.registry.tables.trail import audit, audit_archives, audit_heads, audit_tiles

__all__ = [
    "METADATA",
    "SCHEMA",
    "attestation_runs",
    "audit",
    "audit_archives",
    "audit_heads",
    "audit_tiles",
    "blocked_eks",
    "brake",
    "bundles",
    "console_sessions",
    "contents",
    "counters",
    "demands",
    "device_terms",
    "devices",
    "differing",
    "edge_counts",
    "edge_reports",
    "endorsements",
    "evidence",
    "fleet_changes",
    "fleet_counts",
    "held",
    "identities",
    "ima_parts",
    "invitations",
    "issued",
    "once",
    "operators",
    "passkeys",
    "policies",
    "proxies",
    "quarantines",
    "receipt_chains",
    "receipts",
    "reference_manifests",
    "refusal_counts",
    "refusals",
    "result_counts",
    "result_marks",
    "revocations",
    "spends",
    "told",
    "tpm_makers",
    "watched",
]

# The newest migration. Opening a database of another revision fails; a test keeps this equal to Alembic's head.
SCHEMA = "0011"

# Text sorts by its octets, as it does in SQLite; PostgreSQL would sort it by the rules of the database's language.
_Text = String().with_variant(String(collation="C"), "postgresql")
for _described in METADATA.tables.values():
    for _column in _described.columns:
        if isinstance(_column.type, AutoString):
            _column.type = _Text
