"""Issuing: profiles, the hierarchy's keys on disk, certificates, tokens, bundles, revocation lists and sealing.

keyfiles      secrets on disk: owner only, whole or not at all, never overwritten
signer        keys that sign: with a certificate (CA, bundles) or without (tokens)
authorities   the certificates above the leaves; hierarchy makes, reads and examines them with all keys
profiles      what each kind of certificate may be, and the proof that lifetimes nest
certificates  issues by profile: tbs writes what is signed, readback reads it by other means; der serves both
tokens, bundles, revocation, sealing    what else the service signs or seals
"""
