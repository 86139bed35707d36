"""Issuing: profiles, the hierarchy's keys on disk, certificates, tokens, bundles, revocation lists and sealing.

keyfiles      secrets on disk: owner only, whole or not at all, never overwritten
signer        a key that signs: for the CA and bundles with its certificate, for tokens without
ceremony      makes a hierarchy once; hierarchy reads it, and names what is wrong with it
profiles      what each kind of certificate may be; certificates issues by them and reads back what was signed
tokens, bundles, revocation, sealing    the other things that the service signs or seals
"""
