"""Messages between replicas, sent through the database."""

#: The revocation log has new entries.
REVOKED = "revoked"

#: A call waits until the revocation with this number is in force: replicas store what their verifiers acknowledged.
WANTED = "wanted:"

#: Acknowledgements have been stored, or verifiers have been removed.
ACKNOWLEDGED = "acknowledged"
