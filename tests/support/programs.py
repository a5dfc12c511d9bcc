"""Programs that a few tests need beside the servers."""

import shutil

import pytest

from tools.servers.install import ServersMissing, install_packages, may_install


def program(name: str, package: str) -> str:
    """Where a program is; installed from Debian's package if need be and possible, else the test is skipped."""
    if shutil.which(name) is None:
        if not may_install():
            pytest.skip(f"{name} is not here, and cannot be installed")
        try:
            install_packages(package)
        except ServersMissing as error:
            pytest.skip(f"{name} cannot be installed: {error}")
    found = shutil.which(name)
    assert found is not None
    return found
