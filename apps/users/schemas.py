"""Users' HTTP bodies."""

import re
from typing import Annotated, Any, Final, Literal, Self
from uuid import UUID

from email_validator import EmailNotValidError, validate_email
from pydantic import AfterValidator, ConfigDict, Field, model_validator

from apps.users.models import TOKEN_LIFETIME, User
from chassis.web.auth import Role
from chassis.web.schemas import Body, View
from events.base import Moment
from events.users import Locale

_BREAKS: Final = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
"""Control characters, and all that breaks a line: nothing that could end a mail header."""

_ONE_LINE: Final = rf"^[^{_BREAKS}]*[^\s{_BREAKS}][^{_BREAKS}]*$"


def _normalized(email: str) -> str:
    """The address in the one form that is stored: lower-case, the domain as DNS knows it.

    Only its form is looked at, never DNS. Letters outside ASCII are refused before the @, where few mail servers take
    them. The reserved `.test` is accepted: it is there to try things out (RFC 6761).
    """
    try:
        found = validate_email(
            email, allow_smtputf8=False, check_deliverability=False, test_environment=True
        )
    except EmailNotValidError:
        raise ValueError("must be a valid e-mail address") from None
    assert found.ascii_email is not None
    return found.ascii_email.lower()


def _one_line(name: str) -> str:
    if not re.fullmatch(_ONE_LINE, name):
        raise ValueError("must not be blank and must stand on one line, without control characters")
    return name


Email = Annotated[
    str,
    Field(max_length=254, examples=["ann@example.com"], json_schema_extra={"format": "email"}),
    AfterValidator(_normalized),
]
Name = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        description="Not blank, and all on one line.",
        examples=["Ann"],
        json_schema_extra={"pattern": _ONE_LINE},
    ),
    AfterValidator(_one_line),
]
_SECRET: Final[dict[str, Any]] = {"format": "password", "pattern": r"^[^\x00]*$"}
"""No request may carry a NUL."""

Password = Annotated[
    str,
    Field(
        min_length=8,
        max_length=128,
        examples=["correct horse battery"],
        json_schema_extra=_SECRET,
    ),
]


class RegisterBody(Body):
    """Who wants to be a user."""

    email: Email
    password: Password
    name: Name
    locale: Locale = "en"


class LoginBody(Body):
    """Who wants to sign in."""

    email: Email
    password: str = Field(
        min_length=1,
        max_length=128,
        examples=["correct horse battery"],
        json_schema_extra=_SECRET,
    )


def _left_out() -> Any:
    return None


class PatchBody(Body):
    """What to change, at least one field. What is left out stays as it is; null is not a value."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    name: Name = Field(default_factory=_left_out)
    email: Email = Field(default_factory=_left_out)
    locale: Locale = Field(default_factory=_left_out)

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("name, email or locale is needed")
        return self


class RegisteredView(View):
    """The new user's id."""

    user_id: UUID

    @classmethod
    def of(cls, user: User) -> Self:
        """A user as registration answers."""
        return cls(user_id=user.id)


class TokenView(View):
    """A token for `Authorization: Bearer`."""

    access_token: str = Field(description="A JWT, signed with Ed25519.", examples=["eyJhbGciOi..."])
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - the kind, not a secret
    expires_in: int = Field(
        int(TOKEN_LIFETIME.total_seconds()), description="Seconds.", examples=[3600]
    )


class UserView(View):
    """A user as he is now."""

    user_id: UUID
    email: str = Field(examples=["ann@example.com"])
    name: str = Field(examples=["Ann"])
    locale: Locale
    role: Role
    version: int = Field(examples=[1])
    created_at: Moment
    updated_at: Moment

    @classmethod
    def of(cls, user: User) -> Self:
        """A user as he is answered to himself."""
        return cls(
            user_id=user.id,
            email=user.email,
            name=user.name,
            locale=user.locale,
            role=user.role,
            version=user.version,
            created_at=user.created_at,
            updated_at=user.updated_at,
        )
