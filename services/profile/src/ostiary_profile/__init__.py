"""Ostiary's example of a downstream service: user profiles in its own database, tokens verified locally."""
