"""The commands of `ostiary-auth` that administer the service; they work on its database, whether it runs or not."""
