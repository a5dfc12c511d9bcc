"""What orders refuses."""

from chassis.web.problems import Problem


class OrderAlreadyRejected(Problem):
    """A rejected order cannot be cancelled."""

    status = 409
    reason = "order_rejected"


class PaymentRefused(Problem):
    """The order was not paid."""

    status = 403
    reason = "insufficient_funds"
