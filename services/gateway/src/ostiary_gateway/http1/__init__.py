"""HTTP/1.1 messages as bytes (RFC 9112): no sockets and no clocks, except in `write_buffer`."""
