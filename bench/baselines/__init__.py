"""What Chorus is compared with: three other ways to build the same order system, each as well as it can be built.

- `http_only`: services that call each other, without a broker.
- `events_for_notifications`: services that call each other for what matters, and tell the rest by thin events.
- `usual`: the usual event-driven build, with an ORM session and a transaction for each message.

All three answer the same requests with the same bodies, keep the same tables, obey the same rules and write the same
letters as Chorus, and share its models, its schemas, its checks of tokens and passwords, and the way in which its
servers are run. So what a comparison shows is the architecture, and how work reaches database and broker. `common`
runs a service, `parts` holds what several of them are made of.

    python -m bench.baselines.http_only orders --port 8003

The settings are those of Chorus' services; CHORUS_AMQP_URL needs all rights, for queues are declared at start, and
BENCH_URL_USERS, BENCH_URL_BILLING, BENCH_URL_ORDERS and BENCH_URL_NOTIFICATIONS say where the services answer.
"""
