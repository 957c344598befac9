"""Ostiary's example of a downstream service: users' profiles, its own database, tokens verified by itself."""
