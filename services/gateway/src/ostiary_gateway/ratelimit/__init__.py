"""Rate limits as token buckets, in one process or shared through Redis."""
