"""Services and the bus on real servers."""

from tests.support.fixtures import *  # noqa: F403
