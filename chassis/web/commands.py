"""Door 1: from an HTTP request to its use case, through the group committer.

A route turns the request into a command and submits it; the answer comes back once the transaction is durable.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request, Response
from pydantic import BaseModel

from chassis.database.group_commit import Work
from chassis.web.auth import CurrentUser, User
from chassis.web.idempotency import Answer, IdempotencyKey, IdempotentRequest, problem_answer
from chassis.web.problems import Problem
from events.base import Causation

Command = TypeVar("Command")
Result = TypeVar("Result")


def answer_with(
    view: Callable[[Any], BaseModel], status: int, location: Callable[[Any], str] | None
) -> Callable[[str, Any], Answer]:
    """How a result becomes an answer: a value by its view, a refusal as a problem."""

    def answer(path: str, result: Any) -> Answer:
        if isinstance(result, Problem):
            return problem_answer(result, path)
        headers = {"Location": location(result)} if location else {}
        return Answer(status, view(result).model_dump_json(by_alias=True), headers=headers)

    return answer


class Commands:
    """What a route submits commands with. `because` is the cause of whatever the command leads to."""

    def __init__(self, request: Request, user: User | None = None, key: str | None = None) -> None:
        self.cause: Causation = request.scope["chorus.cause"]
        self._request = request
        self._user = user
        self._key = key

    async def run(
        self,
        use_case: Work[Command, Result | Problem],
        command: Command,
        view: Callable[[Result], BaseModel],
        *,
        status: int = 200,
        location: Callable[[Result], str] | None = None,
    ) -> Response:
        """Have a use case done and answer with its result."""
        answer = await self.submit(use_case, command, view, status=status, location=location)
        return respond(answer)

    async def submit(
        self,
        use_case: Work[Command, Result | Problem],
        command: Command,
        view: Callable[[Result], BaseModel],
        *,
        status: int = 200,
        location: Callable[[Result], str] | None = None,
    ) -> Answer:
        """The same, for a route that has more to do before it answers."""
        told = answer_with(view, status, location)
        asked = IdempotentRequest(command, self._request.scope["path"], told)
        if self._key and self._user:
            fingerprint = await _fingerprint(self._request)
            asked = IdempotentRequest(
                command, asked.path, told, self._user.id, self._key, fingerprint
            )
        committer = self._request.app.state.service.committer(use_case)
        answer: Answer = await committer.submit(asked)
        return answer


def respond(answer: Answer) -> Response:
    """An answer as a response."""
    return Response(
        answer.body, answer.status, headers=dict(answer.headers), media_type=answer.media_type
    )


async def _fingerprint(request: Request) -> str:
    """What makes two requests the same: method, path and body, whatever its white space and order of fields."""
    body = await request.body()
    canonical = json.dumps(await request.json(), sort_keys=True, default=str) if body else ""
    asked = f"{request.method} {request.scope['path']} {canonical}"
    return hashlib.sha256(asked.encode()).hexdigest()


async def _user_commands(
    request: Request, user: CurrentUser, key: IdempotencyKey = None
) -> Commands:
    return Commands(request, user, key)


async def _keyless_commands(request: Request) -> Commands:
    return Commands(request)


UserCommands = Annotated[Commands, Depends(_user_commands)]
"""Commands of a signed-in user, with Idempotency-Key."""

KeylessCommands = Annotated[Commands, Depends(_keyless_commands)]
"""Commands without Idempotency-Key. Who may ask is for the route to say."""
