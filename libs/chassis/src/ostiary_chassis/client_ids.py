"""Ids of the OAuth clients that are part of every deployment."""

#: The client of this deployment's own verifiers; the auth service registers it, the other services use it.
VERIFIERS_CLIENT_ID = "ostiary-verifiers"

#: The client of this deployment's gateways, which exchange the sessions of browsers for access tokens.
GATEWAYS_CLIENT_ID = "ostiary-gateways"
