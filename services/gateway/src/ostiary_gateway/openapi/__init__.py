"""One OpenAPI document of the services behind the gateway."""
