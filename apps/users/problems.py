"""What users refuses."""

from typing import Self

from chassis.web.problems import Problem, Unauthorized


class EmailTaken(Problem):
    """This e-mail address belongs to another user."""

    status = 409
    reason = "email_taken"


class InvalidCredentials(Unauthorized):
    """The e-mail address or the password is wrong."""

    reason = "invalid_credentials"


class TooManyAttempts(Problem):
    """This e-mail address was tried too often; try again later."""

    status = 429
    reason = "too_many_attempts"

    @classmethod
    def after(cls, seconds: int) -> Self:
        """The refusal, with the time after which the next attempt is let through."""
        return cls(f"Try again in {seconds} s.", headers={"Retry-After": str(seconds)})

    @classmethod
    def example(cls) -> Self:
        """One of its kind, for the documentation."""
        return cls.after(20)
