"""The rules of the auth service, without HTTP and SQL."""
