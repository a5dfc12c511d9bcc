"""How the tests find out whether a Docker engine answers."""

import gc
import socket
import warnings
from pathlib import Path

import pytest

from tests.support.servers import docker_error


class TestDockerError:
    @pytest.mark.parametrize("engine", ["absent", "refusing", "hanging up"])
    def test_a_missing_engine_is_an_error_message_and_leaves_no_socket_open(
        self, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "docker.sock"
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        with (
            socket.socket(socket.AF_UNIX) as consumer,
            warnings.catch_warnings(record=True) as seen,
        ):
            warnings.simplefilter("always", ResourceWarning)
            if engine != "absent":
                consumer.bind(str(path))
            if engine == "hanging up":
                consumer.listen(0)
                consumer.shutdown(socket.SHUT_RDWR)
            assert docker_error()
            gc.collect()
        assert [str(warning.message) for warning in seen] == []
