"""Issuing: profiles, the hierarchy's keys on disk, certificates, tokens, bundles, revocation lists and sealing.

keyfiles      secrets on disk: owner only, whole or not at all, never overwritten
signer        keys that sign: with a certificate (CA, bundles) or without (tokens)
authorities   the certificates above the leaves; hierarchy makes, reads and examines them with all keys
profiles      what each kind of certificate may be, and the proof that lifetimes nest
certificates  issues by profile; readback compares what was signed with what was meant, octet by octet
tokens, bundles, revocation, sealing    what else the service signs or seals
"""
