"""Routes files that several modules of tests share."""

#: Routes for requests and their limits.
REQUEST_ROUTES = """\
upstreams:
  up: {url: "${UPSTREAM}"}
routes:
  - {name: any, match: {path: "/any/{rest...}", methods: [GET, HEAD, POST, PUT, DELETE, OPTIONS]}, upstream: up,
     access: public}
  - {name: quick, match: {path: /quick, methods: [GET, POST]}, upstream: up, access: public,
     timeouts: {first_byte: 0.2, idle: 0.2}}
  - {name: small, match: {path: /small, methods: [POST]}, upstream: up, access: public, limits: {body_bytes: 100}}
  - {name: mine, match: {path: /mine, methods: [GET, POST]}, upstream: up, access: authenticated}
"""

#: Routes for bodies larger than all buffers.
STREAM_ROUTES = """\
upstreams:
  up: {url: "${UPSTREAM}"}
routes:
  - {name: any, match: {path: "/any/{rest...}", methods: [GET, POST]}, upstream: up, access: public,
     limits: {body_bytes: 100000000}}
  - {name: quick, match: {path: /quick, methods: [GET, POST]}, upstream: up, access: public,
     timeouts: {first_byte: 0.2, idle: 0.2},
     limits: {body_bytes: 100000000}}
"""

#: Routes for WebSockets.
WEBSOCKET_ROUTES = """\
upstreams:
  up: {url: "${UPSTREAM}"}
routes:
  - {name: live, match: {path: /live, methods: [GET, POST]}, upstream: up, access: authenticated, websocket: true,
     cors: {origins: ["https://shop.example"]}}
  - {name: open, match: {path: /open, methods: [GET, POST]}, upstream: up, access: public, websocket: true}
  - {name: brief, match: {path: /brief, methods: [GET]}, upstream: up, access: public, websocket: true,
     timeouts: {stream_idle: 0.3}}
  - {name: limited, match: {path: /limited, methods: [GET]}, upstream: up, access: public, websocket: true,
     timeouts: {total: 1.0}}
  - {name: plain, match: {path: /plain, methods: [GET]}, upstream: up, access: public}
"""
