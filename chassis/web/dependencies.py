"""The objects of a service as typed dependencies of its routes.

The composition root of a service provides an object, and a route depends on it by its type:

    provide(app, Admission())
    AdmissionDep = Annotated[Admission, Depends(provided(Admission))]
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Request

from chassis.database.pool import Database

T = TypeVar("T")


def provide(app: FastAPI, *objects: object) -> None:
    """Provide objects to the routes of an application, each by its type."""
    provided: dict[type, Any] = app.state.__dict__.setdefault("provided", {})
    provided.update({type(one): one for one in objects})


def resolve(request: Request, kind: type[T]) -> T:
    """The object of a type. Raises KeyError if the composition root has provided none."""
    found: T = request.app.state.provided[kind]
    return found


def provided(kind: type[T]) -> Callable[[Request], Awaitable[T]]:
    """The dependency that gives a route the object of a type."""

    async def dependency(request: Request) -> T:
        return resolve(request, kind)

    return dependency


ReadDatabase = Annotated[Database, Depends(provided(Database))]
"""The service's database; routes read it with `database.reading()`."""
