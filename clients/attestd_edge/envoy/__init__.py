"""Envoy's ext_authz: its gRPC service and its HTTP mode (docs/envoy.md).

This module imports nothing: what gRPC takes is an extra that may be missing, and `hop` reads `forwarded` without it.
"""
