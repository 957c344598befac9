"""Accounts: registration, login, passwords and throttling."""
