"""EARs: any JWT library reads them with the published keys, and none of our doors takes one for a token."""

from __future__ import annotations

from typing import Any

import jwt
import pytest

from attestd.appraisal.ear import PROFILE, ear_claims
from attestd.appraisal.results import AttestationResult
from attestd.ca.ears import sign_ear
from attestd.ca.hierarchy import Hierarchy, jwks
from attestd.ca.tokens import TokenKeyNotCurrent
from attestd.credentials.jws import TypeConfused
from attestd.credentials.tokens import verify_token

from .conftest import DOMAIN, NOW

ISSUER, SUBJECT = "https://attestd.example.org", "spiffe://example.org/device/berlin/d1"
RESULT = AttestationResult({"instance-identity": 2, "hardware": 2, "executables": 96}, ("PCR 4 is new.",), 1)


def claims(result: AttestationResult = RESULT, **changes: Any) -> dict[str, Any]:
    issued_at = int(NOW.timestamp())
    good: dict[str, Any] = {
        "issuer": ISSUER,
        "subject": SUBJECT,
        "build": "attestd 1",
        "policies": ["bike-4@sha256:00"],
        "issued_at": issued_at,
        "expires_at": issued_at + 3600,
        "nonce": "n" * 43,
    }
    return ear_claims(result, **good | changes)


def test_another_library_reads_it_with_the_published_keys(hierarchy: Hierarchy) -> None:
    ear = sign_ear(hierarchy.token_key, claims())
    (key,) = (key for key in jwt.PyJWKSet.from_dict(jwks(hierarchy)).keys if key.key_id == hierarchy.token_key.kid)
    read = jwt.decode(ear, key.key, algorithms=["ES256"], issuer=ISSUER, options={"verify_exp": False})
    assert jwt.get_unverified_header(ear)["typ"] == "eat+jwt"
    assert read["eat_profile"] == PROFILE
    assert set(read["ear_verifier_id"]) == {"developer", "build"}
    appraisal = read["submods"][SUBJECT]
    assert read["ear_status"] == appraisal["ear_status"] == "contraindicated"
    assert appraisal["ear_trustworthiness_vector"] == dict(RESULT.vector)
    assert appraisal["ear_appraisal_policy_ids"] == ["bike-4@sha256:00"]
    assert appraisal["attestd_reasons"] == ["PCR 4 is new."]
    assert appraisal["eat_nonce"] == "n" * 43
    assert isinstance(read["iat"], int)
    assert isinstance(read["exp"], int)


def test_a_list_of_policies_is_never_empty() -> None:
    appraisal = claims(policies=[], nonce=None)["submods"][SUBJECT]
    assert "ear_appraisal_policy_ids" not in appraisal
    assert "eat_nonce" not in appraisal


def test_it_is_no_access_token(hierarchy: Hierarchy) -> None:
    keys = {key.kid: key.key.public_key for key in hierarchy.token_keys}
    ear = sign_ear(hierarchy.token_key, claims())
    with pytest.raises(TypeConfused):
        verify_token(ear, keys=keys, issuer=ISSUER, audience=ISSUER, trust_domain=DOMAIN, now=NOW)


def test_only_the_current_key_signs(hierarchy: Hierarchy) -> None:
    other = next(key for key in hierarchy.token_keys if key.state != "current")
    with pytest.raises(TokenKeyNotCurrent):
        sign_ear(other, claims())
