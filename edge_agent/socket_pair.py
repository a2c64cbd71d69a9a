"""What the agent and a process of its own talk through: a pair of sockets whose messages keep their bounds."""

import socket

MESSAGE_BYTES = 256 * 1024
"""Of the largest message."""


def message_socket_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends; each end gets the messages of the other one whole."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_BYTES)
    return ours, theirs


def receive_message(channel: socket.socket) -> bytes:
    """The next message; empty when nobody is at the other end."""
    try:
        return channel.recv(MESSAGE_BYTES)
    except ConnectionError:
        return b""
