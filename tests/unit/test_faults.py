"""Which faults of a database are worth another try."""

import asyncpg
import pytest

from events.bus.faults import CommitUnknownError, is_transient


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.ConnectionDoesNotExistError("gone"),
        asyncpg.AdminShutdownError("terminated"),
        asyncpg.DeadlockDetectedError("deadlock"),
        asyncpg.InterfaceError("the connection is closed"),
        asyncpg.InternalClientError("cannot switch to state 15"),
        CommitUnknownError("lost"),
        ConnectionResetError(),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_server_that_goes_away_is_waited_for(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.UniqueViolationError("doubled"),
        asyncpg.CheckViolationError("below zero"),
        asyncpg.UndefinedTableError("no such table"),
        ValueError("a fault of ours"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_fault_of_the_work_itself_is_not(error: Exception) -> None:
    assert not is_transient(error)
