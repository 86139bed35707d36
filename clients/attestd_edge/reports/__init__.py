"""What an edge tells its service about itself: how many crossings it judged, by which bundle, and what went stale.

Counted in each process (`counts`), added up on the disk (`ledger`), and told in numbered reports (`reporter`).
"""
