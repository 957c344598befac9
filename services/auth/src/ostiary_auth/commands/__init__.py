"""The commands of `ostiary-auth`. They work on the database, whether the service is running or not."""
