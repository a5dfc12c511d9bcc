"""The objects of a service as typed dependencies of its routes.

The composition root of a service provides an object, and a route depends on it by its type:

    provide(app, Admission())
    AdmissionDep = Annotated[Admission, Depends(provided(Admission))]
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Request

from chassis.database.pool import Database

T = TypeVar("T")


class Provided(dict[type, Any]):
    """Objects by their types. An object that the composition root has not provided is a KeyError."""

    if TYPE_CHECKING:

        def __getitem__(self, kind: type[T], /) -> T: ...


def provide(app: FastAPI, *objects: object) -> None:
    """Provide objects to the routes of an application, each by its type."""
    app.state.provided.update({type(one): one for one in objects})


def provided(kind: type[T]) -> Callable[[Request], Awaitable[T]]:
    """The dependency that gives a route the object of a type."""

    async def dependency(request: Request) -> T:
        objects: Provided = request.app.state.provided
        return objects[kind]

    return dependency


ReadDatabase = Annotated[Database, Depends(provided(Database))]
"""The service's database; routes read it with `database.reading()`."""
