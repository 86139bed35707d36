"""What the service does by itself, in rounds: it forgets, it watches, it tells others."""
