"""HTTP: routing, problems, authentication, idempotent requests, pagination, documents."""
