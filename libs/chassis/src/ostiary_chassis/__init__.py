"""The microservice chassis under Ostiary's services.

What each service needs around its domain, a module each:

    settings   one frozen config object, parsed once from the environment
    app        a FastAPI application with problem details, request ids, metrics, logs and health
    bodies     request bodies, read strictly
    queries    query parameters, read strictly
    problems   exceptions into problem documents (RFC 9457)
    openapi    the errors in a service's OpenAPI document
    middleware pure ASGI: request context and body limit
    metrics    request metrics, and the Prometheus endpoint's content
    logs       structured logs
    log_output their lines, written without waiting for a reader
    proxies    client addresses behind trusted proxies
    sql        a database with short read and write transactions
    migrations schema migrations with Alembic
    verifying  the settings of services that verify tokens
    threads    work that would block the event loop
    entry      how a process begins: its imports
    server     a bound socket, a running server, a clean exit
    drain      how long that exit takes
    workers    several processes on one address
"""
