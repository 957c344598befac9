"""Accounts: registration, login, passwords, and what limits guessing."""
