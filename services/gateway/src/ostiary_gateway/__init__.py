"""Ostiary's API gateway: one public address that routes, verifies, limits and proxies."""
