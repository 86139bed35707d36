"""The admin web console: pages that operators look at and act from. It knows the admin API, and nothing else.

`app` puts it together; a page is a module in `pages` and a template. It stores nothing: what a browser holds is in its
cookies (`sessions`), everything else is asked of the service (`api`) for each page anew.
"""
