"""Issuing: the verbs by which evidence becomes credentials.

The walk of one enrollment, file by file:

    enrollment.begin     bytes -> VerifiedEndorsement, VettedAk -> a sealed challenge
    enrollment.complete  proof -> VerifiedAk -> VerifiedKey, VerifiedQuote -> AttestationResult
    grants               AttestationResult + device -> Grant -> CertificateSpec -> signed, parsed back
    registry             one transaction: spend the challenge, record device, credential and audit row
    lifecycle            the same device later (known): re-attests, renews, asks for tokens

Signing happens before the transaction and holds none; the bytes leave only after the commit.
"""
