"""For programs on a device: how they present its identity (docs/programs.md).

One process holds the TPM and the service's tokens (`door`); programs ask it over a Unix socket (`voice`) and keep to
`presenting`'s rules, through `httpx_auth` or `requests_auth`. Neither httpx nor requests is needed by anything else.
"""
