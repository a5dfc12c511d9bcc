"""Users' HTTP bodies."""

import re
from functools import partial
from typing import Annotated, Any, Final, Literal, Self
from uuid import UUID

from email_validator import EmailNotValidError, validate_email
from pydantic import AfterValidator, ConfigDict, Field, model_validator

from apps.users.models import TOKEN_LIFETIME, KeyPair, Profile
from apps.users.password_rules import chosen, is_name
from apps.users.sessions import RefreshTokenText
from chassis.web.auth import Role
from chassis.web.schemas import LINE_BREAKS, Body, View, omitted
from events.base import Moment
from events.users import Locale

_FORMATTING: Final = (
    r"\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
)
"""Characters that show nothing, or change the order in which others are shown: a name with them passes for another."""

_TAGS: Final = re.compile(r"[\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f]")
"""The same, beyond the basic plane. They are removed: JavaScript without its flag `u` cannot compile them in a pattern,
and what a documented pattern accepts is not refused."""

_BLANK: Final = r"\s\u034f\u115f\u1160\u17b4\u17b5\u200c\u200d\u2800\u3164\ufe00-\ufe0f\uffa0"
"""Characters that alone show nothing, though some scripts and emoji need them between others."""

_REFUSED: Final = LINE_BREAKS + _FORMATTING
_ONE_LINE: Final = rf"^[^{_REFUSED}]*[^{_BLANK}{_REFUSED}][^{_REFUSED}]*$"


def _stored_form(email: str, *, strict: bool) -> str:
    """The address in its stored form: lower-case, with an ASCII domain. If `strict`, no part is too long for SMTP.

    Only the syntax is checked, never DNS. A non-ASCII local part is refused: few mail servers accept one. The
    reserved domain `.test` is accepted, for trials (RFC 6761).
    """
    try:
        found = validate_email(
            email,
            allow_smtputf8=False,
            check_deliverability=False,
            test_environment=True,
            strict=strict,
        )
    except EmailNotValidError:
        raise ValueError("must be a valid e-mail address") from None
    assert found.ascii_email is not None
    return found.ascii_email.lower()


def _one_line(name: str) -> str:
    name = _TAGS.sub("", name)
    if not re.fullmatch(_ONE_LINE, name):
        raise ValueError(
            "must not be blank and must be one line without control, invisible or bidirectional characters"
        )
    return name


_Email = Annotated[
    str,
    Field(max_length=254, examples=["ann@example.com"], json_schema_extra={"format": "email"}),
]
Email = Annotated[_Email, AfterValidator(partial(_stored_form, strict=True))]
GivenEmail = Annotated[_Email, AfterValidator(partial(_stored_form, strict=False))]
"""An address to be looked up: it may have been registered when others were accepted."""

Name = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        description="One line that is not blank, without invisible or bidirectional characters.",
        examples=["Ann"],
        json_schema_extra={"pattern": _ONE_LINE},
    ),
    AfterValidator(_one_line),
]
_SECRET: Final[dict[str, Any]] = {"format": "password", "pattern": r"^[^\x00]*$"}
"""No request may contain a NUL character."""

Password = Annotated[
    str,
    Field(
        min_length=8,
        max_length=128,
        description="Neither common, nor a sequence, nor a repetition of up to three characters.",
        examples=["correct horse battery"],
        json_schema_extra=_SECRET | {"pattern": r"^[^\x00-\x1f\x7f-\x9f]*$"},
    ),
    AfterValidator(chosen),
]
"""A password that somebody chooses. One that was chosen before these rules is still accepted where it is checked."""

GivenPassword = Annotated[
    str,
    Field(
        min_length=1,
        max_length=128,
        examples=["correct horse battery"],
        json_schema_extra=_SECRET,
    ),
]
"""A password to be checked."""


class RegisterBody(Body):
    """The user to register."""

    email: Email
    password: Password
    name: Name
    locale: Locale = "en"

    @model_validator(mode="after")
    def _password_is_no_name(self) -> Self:
        if is_name(self.password, self.email, self.name):
            raise ValueError("the password must differ from name and e-mail address")
        return self

    def profile(self) -> Profile:
        """All but the password."""
        return Profile(**self.model_dump(exclude={"password"}))


class LoginBody(Body):
    """The credentials of a user."""

    email: GivenEmail
    password: GivenPassword


class PasswordBody(Body):
    """The password that a user has, and the one that replaces it."""

    old_password: GivenPassword
    new_password: Password


class RefreshBody(Body):
    """The refresh token of a session."""

    refresh_token: RefreshTokenText


class LogoutBody(RefreshBody):
    """The session to end, or with `everywhere` all sessions of its user."""

    everywhere: bool = Field(False, strict=True)


class PatchBody(Body):
    """The fields to change, at least one. Omitted fields stay unchanged; null is not a value."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    name: Name = Field(default_factory=omitted)
    email: Email = Field(default_factory=omitted)
    locale: Locale = Field(default_factory=omitted)

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("name, email or locale is needed")
        return self

    def changes(self) -> dict[str, str]:
        """The fields that are not omitted."""
        return self.model_dump(exclude_unset=True)


class RegisteredView(View):
    """The new user's id."""

    user_id: UUID = Field(validation_alias="id")


class TokenView(View):
    """A token for `Authorization: Bearer`."""

    access_token: str = Field(description="A JWT, signed with Ed25519.", examples=["eyJhbGciOi..."])
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - the type, not a secret
    expires_in: int = Field(
        int(TOKEN_LIFETIME.total_seconds()), description="Seconds.", examples=[3600]
    )
    user_id: UUID = Field(description="Whose token it is.")
    refresh_token: str = Field(
        description="Gives the next tokens, once: `POST /user/token/refresh`.", examples=["A" * 64]
    )


class KeyView(View):
    """An Ed25519 public key as a JSON Web Key (RFC 8037)."""

    kty: Literal["OKP"] = "OKP"
    crv: Literal["Ed25519"] = "Ed25519"
    alg: Literal["EdDSA"] = "EdDSA"
    use: Literal["sig"] = "sig"
    kid: str = Field(description="The `kid` in the header of tokens.", examples=["0193..."])
    x: str = Field(description="base64url without padding.", examples=["11qYAY..."])

    @classmethod
    def of(cls, pair: KeyPair) -> Self:
        """The public half of a pair."""
        return cls(kid=pair.key_id, x=pair.public_key().x)


class KeySetView(View):
    """A JSON Web Key Set (RFC 7517)."""

    keys: list[KeyView]


class UserView(View):
    """The current profile of a user."""

    user_id: UUID = Field(validation_alias="id")
    email: str = Field(examples=["ann@example.com"])
    name: str = Field(examples=["Ann"])
    locale: Locale
    role: Role
    version: int = Field(examples=[1])
    created_at: Moment
    updated_at: Moment
