"""What users refuses."""

from apps.common.problems import Problem, Unauthorized


class EmailTaken(Problem):
    """This e-mail address belongs to another user."""

    status = 409
    reason = "email_taken"


class InvalidCredentials(Unauthorized):
    """The e-mail address or the password is wrong."""

    reason = "invalid_credentials"
