"""What the auth service is about, without HTTP and without SQL."""
