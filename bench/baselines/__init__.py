"""What Chorus is compared with: three other ways to build the same order system, each as well as it can be built.

- `http_only`: services that call each other, without a broker.
- `events_for_notifications`: services that call each other for payments, and publish thin events for notifications.
- `usual`: the usual event-driven build, with an ORM session and a transaction for each message.

All three have the same HTTP API, tables, business rules and notifications as Chorus. They share its models, its
schemas, its verification of tokens and passwords, and its web server. So a comparison shows the architecture, and how
work reaches the database and the broker. `common` runs a service, `parts` holds what several baselines use.

    python -m bench.baselines.http_only orders --port 8003

The settings are those of Chorus' services. CHORUS_AMQP_URL needs all permissions, since queues are declared at start.
BENCH_URL_USERS, BENCH_URL_BILLING, BENCH_URL_ORDERS and BENCH_URL_NOTIFICATIONS are the addresses of the services.
"""
