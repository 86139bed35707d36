"""Operators, how they sign in, and what they asked for."""

from __future__ import annotations

from sqlalchemy import BigInteger, Index
from sqlmodel import Field

from attestd.registry.tables.stored import METADATA, Json, Stored


class OperatorRow(Stored, table=True):
    """A person or program that may call the admin API. `attestd.registry.operators`."""

    __tablename__ = "operators"

    name: str = Field(primary_key=True)
    role: str
    # All three, or none: who comes through the console alone has no key of their own.
    thumbprint: bytes | None = Field(default=None, unique=True)
    public_key: bytes | None = None
    certificate: bytes | None = None
    created_at: int = Field(sa_type=BigInteger)
    disabled_at: int | None = Field(default=None, sa_type=BigInteger)


operators = METADATA.tables["operators"]


class PasskeyRow(Stored, table=True):
    """One passkey of an operator's. `attestd.registry.passkeys`."""

    __tablename__ = "passkeys"
    __table_args__ = (Index(None, "operator"),)

    id: str = Field(primary_key=True)
    credential: bytes = Field(unique=True)
    operator: str
    public_key: bytes
    sign_count: int = Field(sa_type=BigInteger)
    label: str
    transports: list[str] = Field(sa_type=Json, nullable=False)
    backed_up: bool
    created_at: int = Field(sa_type=BigInteger)
    used_at: int | None = Field(default=None, sa_type=BigInteger)


passkeys = METADATA.tables["passkeys"]


class IdentityRow(Stored, table=True):
    """By whom an OpenID provider knows an operator. `attestd.registry.identities`."""

    __tablename__ = "identities"
    __table_args__ = (Index(None, "operator"),)

    issuer: str = Field(primary_key=True)
    subject: str = Field(primary_key=True)
    operator: str
    by_claims: bool
    created_at: int = Field(sa_type=BigInteger)
    used_at: int | None = Field(default=None, sa_type=BigInteger)


identities = METADATA.tables["identities"]


class InvitationRow(Stored, table=True):
    """A one-time link for a person, without its secret. `attestd.registry.invitations`."""

    __tablename__ = "invitations"
    __table_args__ = (Index(None, "name"),)

    id: str = Field(primary_key=True)
    token: bytes = Field(unique=True)
    name: str
    role: str
    created_at: int = Field(sa_type=BigInteger)
    created_by: str
    expires_at: int = Field(sa_type=BigInteger)
    spent_at: int | None = Field(default=None, sa_type=BigInteger)
    withdrawn_at: int | None = Field(default=None, sa_type=BigInteger)


invitations = METADATA.tables["invitations"]


class SessionRow(Stored, table=True):
    """One browser that somebody signed in with. `attestd.registry.sessions`."""

    __tablename__ = "console_sessions"
    __table_args__ = (Index(None, "operator", "ends_at"), Index(None, "ends_at"))

    id: str = Field(primary_key=True)
    thumbprint: bytes = Field(unique=True)
    public_key: bytes
    operator: str
    method: str
    passkey: str | None = None
    began_at: int = Field(sa_type=BigInteger)
    seen_at: int = Field(sa_type=BigInteger)
    ends_at: int = Field(sa_type=BigInteger)
    agent: str
    address: str
    ended_at: int | None = Field(default=None, sa_type=BigInteger)
    ended_because: str | None = None


console_sessions = METADATA.tables["console_sessions"]


class OnceRow(Stored, table=True):
    """An operator's call that shall be carried out once, whoever presses twice. `attestd.registry.once`."""

    __tablename__ = "once"
    __table_args__ = (Index(None, "at"),)

    actor: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    digest: bytes
    request_id: str
    at: int = Field(sa_type=BigInteger)
    last_row: int = Field(sa_type=BigInteger)
    answered_at: int | None = Field(default=None, sa_type=BigInteger)


once = METADATA.tables["once"]
