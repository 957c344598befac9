"""OAuth clients, access tokens and grants."""
