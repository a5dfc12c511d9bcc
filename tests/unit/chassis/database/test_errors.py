"""Which faults of the database are transient."""

import asyncpg
import pytest

from chassis.database.errors import CommitUnknownError, is_transient


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
def test_faults_of_a_server_are_transient(error: Exception) -> None:
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
def test_faults_of_the_work_are_permanent(error: Exception) -> None:
    assert not is_transient(error)
