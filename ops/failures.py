"""What stops a command from outside, a setting, a server or a file: one line on standard error, and an exit status."""

import logging
from typing import Any, Final

import typer
from typer.core import TyperGroup

SETTING: Final = 2
"""The exit status if a setting is missing or not valid."""

FAILED: Final = 1
"""The exit status if a server does not answer or refuses the login."""

UNKNOWN: Final = frozenset({"audit", "topology", "trace"})
"""Commands whose status 1 is an answer; if a server does not answer, theirs is 2."""

LIBRARIES: Final = ("aio_pika", "aiormq", "asyncio")
"""They log what they raise as well."""

ANSWER: Final = "check that it runs, and its URL in the settings (docs/settings.md)"
LOGIN: Final = (
    "check user and password in the settings (docs/settings.md), and that `chorus migrate` has run"
)


class Reported(TyperGroup):
    """Commands that end with one line if something outside stops them. A fault of the program has its traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        for name in LIBRARIES:
            logging.getLogger(name).addHandler(logging.NullHandler())
        try:
            return super().invoke(ctx)
        except Exception as error:
            if (line := explained(error)) is None:
                raise
            typer.echo(f"chorus: {line}", err=True)
            if _is_setting(error):
                raise typer.Exit(SETTING) from None
            raise typer.Exit(2 if ctx.invoked_subcommand in UNKNOWN else FAILED) from None


def explained(error: BaseException) -> str | None:
    """What happened outside the program, and what to do, in one line without secrets; None for any other error."""
    if _is_setting(error):
        return str(error)
    # Imported here: a command that succeeds does not need all of them.
    import asyncpg
    from aio_pika.exceptions import AMQPError

    from ops.audit.databases import DatabaseUnavailableError
    from ops.management import NO_ANSWER, TopologyConflictError, refuses_login

    text = " ".join(str(error).split()) or type(error).__name__
    cause = error.__cause__ if isinstance(error, DatabaseUnavailableError) else error
    if isinstance(cause, BrokenPipeError):
        return None  # the program that read the output has ended
    if isinstance(cause, OSError) and cause.filename:
        return f"{cause.filename}: {cause.strerror}"
    if refuses_login(cause):
        return f"RabbitMQ's management API refused the login; {LOGIN}"
    if isinstance(cause, AMQPError) and ("REFUSED" in text or "Authentication" in repr(cause)):
        return f"RabbitMQ refused the login: {text}; {LOGIN}"
    lines = {
        asyncpg.InvalidAuthorizationSpecificationError: f"PostgreSQL refused the login: {text}; {LOGIN}",
        asyncpg.PostgresError: f"PostgreSQL: {text}; has `chorus migrate` run?",
        asyncpg.InterfaceError: f"PostgreSQL: {text}",
        NO_ANSWER: f"RabbitMQ's management API does not answer: {text}; {ANSWER}",
        AMQPError: f"RabbitMQ does not answer: {text}; {ANSWER}",
        OSError: f"a server does not answer: {text}; {ANSWER}",
        TopologyConflictError: f"{text}; docs/runbook.md says how to replace a queue",
    }
    return next((line for kind, line in lines.items() if isinstance(cause, kind)), None)


def _is_setting(error: BaseException) -> bool:
    """Whether a setting is wrong. Keys and indexes that are missing are faults of the program."""
    return isinstance(error, LookupError) and not isinstance(error, KeyError | IndexError)
