"""What operators see of requests: access log, traces, metrics."""
