"""Verified evidence + reference values -> attestation result: the verifier's role of RFC 9334."""
