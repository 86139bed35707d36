"""What the service and edges know of NATS in common: its keys, how to log in, and how bundles travel over it."""
