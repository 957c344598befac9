"""Ostiary's auth service: accounts, sessions, OAuth clients and signing keys. Only it can sign."""
