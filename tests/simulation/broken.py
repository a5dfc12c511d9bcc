"""Services that lack a mechanism, for as long as a block lasts."""

import contextlib
from collections.abc import Iterator
from typing import Any, Final

from chassis.database.tables import Statements
from chassis.database.transaction import Transaction
from chassis.messaging import consumer, relay
from chassis.messaging.consumer import Consumer
from chassis.messaging.publisher import Publisher
from tests.simulation.postgres import Postgres
from tests.support import mutants

REPLACED: Final[tuple[tuple[Any, str], ...]] = (
    (consumer, "mark_processed"),
    (Consumer, "_consume"),
    (Transaction, "lock"),
    (Transaction, "lock_all"),
    (relay, "take"),
    (Statements, "upsert_newer"),
    (Publisher, "publish"),
)
"""What mutants replace."""


@contextlib.contextmanager
def broken(mutant: str, postgres: Postgres) -> Iterator[None]:
    """Within this block all processes are mutants, and no constraint stands in for what is missing."""
    before = [(owner, name, getattr(owner, name)) for owner, name in REPLACED]
    mutants.mutate(mutant)
    assert [getattr(owner, name) for owner, name, _ in before] != [was for _, _, was in before]
    try:
        if mutant == "unlocked_balance":
            postgres.administer("billing", mutants.NO_VERSION_KEY)
        yield
    finally:
        for owner, name, was in before:
            setattr(owner, name, was)
        if mutant == "unlocked_balance":
            postgres.wipe()  # what stands there may break the rule
            postgres.administer("billing", mutants.VERSION_KEY)
