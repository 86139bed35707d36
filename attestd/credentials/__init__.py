"""A presented credential -> a verified identity: what an edge proxy, and the service itself, believe and why.

`x509.verify_chain -> VerifiedCertificate -> device_identity`, or
`tokens.verify_token -> VerifiedToken -> bind_to_certificate | bind_to_proof -> BoundToken -> token_identity`.
Both end in `identity.admit`, which asks the status list and the revoked serial numbers of a `bundle.Bundle`.
Pure: no I/O, no clock, nothing remembered but proofs that were used (`dpop.ReplayCache`).
"""
