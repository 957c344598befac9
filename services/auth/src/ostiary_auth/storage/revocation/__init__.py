"""The revocation log and its readers on SQL."""
