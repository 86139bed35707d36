"""Signed heads of the audit trail's hash tree (docs/protocol.md, section 8)."""

from __future__ import annotations

from typing import Final

from cryptography import x509

# UUID 4bd5a015-4a96-47c5-99cf-6618ad89ddd5 (docs/adr/0009-object-ids.md): may sign heads of the audit trail.
AUDIT_EKU: Final = x509.ObjectIdentifier("1.2.840.113556.1.8000.2554.19413.40981.19094.18373.39375.6690989.9035221")
