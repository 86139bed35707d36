"""The attestation result as relying parties elsewhere read it: an EAT Attestation Result (draft-ietf-rats-ear-03).

The claims of an EAR, section 3; each machine is one submodule, named by its SPIFFE ID. `ca.ears` signs them. What the
draft leaves open is kept small: an appraisal policy is a reference manifest, known by its name and digest; reasons are
an extension of ours (section 3.2, `$$ear-appraisal-extension`), which a receiver that does not know it ignores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from attestd.appraisal.results import AttestationResult

PROFILE: Final = "tag:ietf.org,2026:rats/ear#03"
DEVELOPER: Final = "attestd"
MEDIA_TYPE: Final = f'application/eat+jwt; eat_profile="{PROFILE}"'  # RFC 9782, section 6.1
REASONS: Final = "attestd_reasons"


def ear_claims(
    result: AttestationResult,
    *,
    issuer: str,
    subject: str,
    build: str,
    policies: Sequence[str],
    issued_at: int,
    expires_at: int,
    nonce: str | None = None,
) -> dict[str, Any]:
    """The claims set. `subject` names the machine; `policies` the manifests that decided; times are unix seconds.

    `nonce` is the base64url text of what the quote answered, 12 to 88 characters (draft, section 3, `eat_nonce`).
    """
    appraisal: dict[str, Any] = {
        "ear_status": result.status,
        "ear_trustworthiness_vector": dict(result.vector),
    }
    if policies:  # the list must not be empty (section 3.2)
        appraisal["ear_appraisal_policy_ids"] = list(policies)
    if result.reasons:
        appraisal[REASONS] = list(result.reasons)
    if nonce is not None:
        appraisal["eat_nonce"] = nonce
    return {
        "eat_profile": PROFILE,
        "iss": issuer,
        "iat": issued_at,
        "exp": expires_at,
        "ear_status": result.status,  # no higher than the worst of the submodules, of which there is one
        "ear_verifier_id": {"developer": DEVELOPER, "build": build},
        "submods": {subject: appraisal},
    }
