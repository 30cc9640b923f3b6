"""No test reaches the network: pytest-socket lets connections pass to this machine alone."""

import socket

import pytest
from pytest_socket import SocketConnectBlockedError


@pytest.mark.filterwarnings("ignore:A test tried to use socket")
def test_a_connection_outside_is_refused():
    """RELIABILITY 29. 192.0.2.1 is reserved for documentation: no one is there."""
    with pytest.raises(SocketConnectBlockedError), socket.socket() as outside:
        outside.connect(("192.0.2.1", 80))
