"""A service's own copy of the users it knows: what UserRegistered and UserUpdated told, newest version wins."""

from collections.abc import Iterable
from typing import Self
from uuid import UUID

from sqlmodel import Field

from chassis.database.tables import Table
from events.users import UserState


class KnownUser(Table):
    """The columns of such a copy; a service derives its own table and gives it the name of the role."""

    id: UUID = Field(primary_key=True)
    email: str
    name: str
    locale: str
    version: int

    @classmethod
    def copies(cls, users: Iterable[UserState]) -> list[Self]:
        """Rows for `Transaction.upsert_newer`."""
        return [
            cls(id=u.id, email=u.email, name=u.name, locale=u.locale, version=u.version)
            for u in users
        ]

    def state(self) -> UserState:
        """The user as events carry him."""
        return UserState.model_validate(self, from_attributes=True)
