"""The edge: lets a request cross a boundary, or says why not, also while the service can't be reached.

`decide` judges, purely. `store` keeps the signed bundle and the floors on disk, `service` and `refresh` bring new ones,
`edge` puts them together; `wsgi`, `asgi` and `forward_auth` are the doors. Nothing here needs libtss2.
"""
