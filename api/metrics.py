"""What is counted and measured, by the names that Prometheus sees."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 45, 90)

REQUESTS = Counter("icmp_requests_total", "HTTP requests answered.", ["method", "route", "status"])
REQUEST_SECONDS = Histogram("icmp_request_seconds", "Time to answer a request.", ["route"], buckets=SECONDS)
TURNS = Counter("icmp_turns_total", "Turns ended: done, degraded or failed.", ["outcome"])
TURN_SECONDS = Histogram("icmp_turn_seconds", "Time from a message accepted to its reply.", buckets=SECONDS)
TURN_WAIT_SECONDS = Histogram("icmp_turn_wait_seconds", "Time a message waited for its turn.", buckets=SECONDS)
TURNS_TAKEN_OVER = Counter("icmp_turns_taken_over_total", "Turns resumed after their worker was lost.")
TURNS_IN_FLIGHT = Gauge("icmp_turns_in_flight", "Turns running now.", multiprocess_mode="livesum")
STEPS = Counter("icmp_steps_total", "Steps of turns.", ["kind", "model", "outcome"])
STEP_SECONDS = Histogram("icmp_step_seconds", "Time of a step.", ["kind"], buckets=SECONDS)
TOKENS = Counter("icmp_tokens_total", "Tokens charged by models.", ["model", "direction"])
COST_USD = Counter("icmp_cost_usd_total", "Known cost of model calls.", ["model"])
BREAKER_OPEN = Gauge("icmp_breaker_open", "1 while calls to a model are not tried.", ["model"], multiprocess_mode="max")
POOL_CONNECTIONS = Gauge("icmp_pool_connections", "Database connections.", ["state"], multiprocess_mode="livesum")
POOL_WAIT_SECONDS = Histogram("icmp_pool_wait_seconds", "Time to get a database connection.", buckets=SECONDS)
RATE_LIMITED = Counter("icmp_rate_limited_total", "Requests refused by a limit.", ["limit"])
LIMIT_STORE_FAILURES = Counter("icmp_limit_store_failures_total", "Times the bucket store could not be asked.")
SECURITY_EVENTS = Counter("icmp_security_events_total", "Anomalies noticed.", ["kind"])
LOGS_DROPPED = Counter("icmp_logs_dropped_total", "Log lines that never reached LOG_HTTP_URL.")
