"""PostgreSQL's two drivers: psycopg, by which Core executes, and libpq itself, by which acts travel (`pipeline`)."""

from __future__ import annotations

import json

from sqlalchemy import JSON, Integer, String
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from attestd.protocol.encoding import write_object
from attestd.registry.statements import DRIVERS, EXACT, Driver

PSYCOPG = Driver("psycopg", PGDialect_psycopg(paramstyle="format"), EXACT, {})  # type: ignore[no-untyped-call]
DRIVERS[PSYCOPG.name] = PSYCOPG
# Octets in and out, as the protocol has them (PostgreSQL 15, sections 55.2.3 and 34.3): binary but for numbers in.
LIBPQ = Driver(
    "libpq",
    PGDialect(paramstyle="numeric_dollar"),  # type: ignore[no-untyped-call]
    {String: lambda text: str(text).encode(), Integer: lambda number: b"%d" % number, JSON: write_object},
    {String: bytes.decode, Integer: lambda octets: int.from_bytes(octets, "big", signed=True), JSON: json.loads},
)
