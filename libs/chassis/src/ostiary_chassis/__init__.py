"""The microservice chassis under Ostiary's services.

What every service needs around its domain and none should write twice, a module each:

    settings   one frozen config object, read once from the environment
    app        a FastAPI application with problem details, request ids, metrics, logs and health
    bodies     the base of request bodies
    problems   exceptions into problem documents (RFC 9457)
    middleware pure ASGI: request context and body limit
    logs       structured logs
    sql        a database with short read and write transactions, and migrations that run once
    server     a bound socket, a running server, a clean exit

It knows nothing of tokens; those are `ostiary`'s.
"""
