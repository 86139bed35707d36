"""The pages: one module each, with `routes(console)`, listed in `app.PAGES`."""
