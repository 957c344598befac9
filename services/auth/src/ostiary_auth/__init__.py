"""Ostiary's auth service: accounts, sessions, refresh tokens, signing keys and the JWKS. The only signer."""
