"""Who nobody knows yet: real connections that send slowly, never end, are too many, or do not take their answer."""

import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.conftest import need_tool
from tests.server import REGION, Server, wait_for

IMPATIENT = {"headers_s": 1, "body_s": 1, "body_mib": 16, "connections_each": 40, "threads": 4, "calls_waiting": 8}
PATH = "/2020-11-20/projects/p/models/1/detect"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("strangers") / "data", {**IMPATIENT}).start()
    try:
        yield running
        running.stop()
        assert "Traceback" not in running.log
        assert "ASGI" not in running.log
    finally:
        running.kill()


def connect(server: Server) -> socket.socket:
    where = urlsplit(server.url)
    return socket.create_connection((where.hostname or "", where.port or 0), timeout=20)


def head(server: Server, key: dict[str, str], declared: str | None = None, length: int = 8 << 20, secret: str | None = None) -> bytes:
    """Headers of a signed call with a body that is not there."""
    headers = {"Content-Type": "image/png"} | ({"X-Amz-Content-SHA256": declared} if declared else {})
    request = AWSRequest("POST", server.url + PATH, headers, b"")
    keys = Credentials(key["aws_access_key_id"], secret or key["aws_secret_access_key"])
    SigV4Auth(keys, "lookoutvision", REGION).add_auth(request)
    fields = {**dict(request.headers), "Host": urlsplit(server.url).netloc, "Content-Length": str(length)}
    return (f"POST {PATH} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items()) + "\r\n").encode()


def ended(connection: socket.socket) -> bytes:
    """What comes until the server closes; fails when it does not."""
    found = b""
    try:
        while part := connection.recv(1 << 16):
            found += part
    except ConnectionError:
        pass
    return found


def test_one_byte_each_keeps_nobody_out(server: Server) -> None:
    key, other = server.credential(), server.client(server.credential())
    open_ones = [connect(server) for _ in range(25)]
    try:
        for connection in open_ones:  # more than there are threads and places for calls that wait, too
            connection.sendall(head(server, key, secret="x" * 40) + b"x")
        time.sleep(0.3)
        for _ in range(5):
            assert other.list_projects()["Projects"] == []
            assert server.client(key).list_projects()["Projects"] == []
        told = [ended(connection).split(b" ", 2)[1] for connection in open_ones]
        assert told.count(b"408") > 10
        assert set(told) <= {b"408", b"429"}  # all at once were perhaps more than could be looked at
    finally:
        for connection in open_ones:
            connection.close()


def test_a_wrong_signature_is_refused_before_the_body(server: Server) -> None:
    with connect(server) as connection:
        connection.sendall(head(server, server.credential(), "0" * 64, secret="x" * 40) + b"x")
        answer = ended(connection)
    assert (answer.split(b" ", 2)[1], b"InvalidSignatureException" in answer) == (b"403", True)


def test_a_right_signature_does_not_excuse_another_body(server: Server) -> None:
    with connect(server) as connection:
        connection.sendall(head(server, server.credential(), "0" * 64, 5) + b"hello")
        assert b"InvalidSignatureException" in connection.recv(4096)


@pytest.mark.parametrize("text", [
    b"", b"GET", b"GET / HTTP/1.1\r\nHost: x\r\n", b"\r\n",
    b"GET /-/health HTTP/1.1\r\nHost: localhost\r\n\r\n",  # answered, and then nothing more comes
])  # fmt: skip
def test_headers_that_never_end(server: Server, text: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(text)
        ended(connection)


def test_headers_that_come_drop_by_drop(server: Server) -> None:
    with connect(server) as connection:
        connection.settimeout(0.2)
        for piece in [b"GET / HTTP/1.1\r\n", *([b"a: b\r\n"] * 100)]:
            try:
                connection.sendall(piece)
                if not connection.recv(1):
                    return
            except TimeoutError:
                continue
            except ConnectionError:
                return
    raise AssertionError("after 20 s of headers the connection is still open")


@pytest.mark.parametrize("endless", [b"a: " + b"x" * 1000 + b"\r\n", b"x" * 1000])
def test_trailers_have_a_bound(server: Server, endless: bytes) -> None:
    chunked = head(server, server.credential()).replace(b"Content-Length: 8388608", b"Transfer-Encoding: chunked")
    with connect(server) as connection:
        connection.sendall(chunked + b"1\r\nx\r\n0\r\n")
        for _ in range(20_000):
            try:
                connection.sendall(endless)
            except ConnectionError:
                return
    raise AssertionError("20 MB of trailers were taken")


def test_connections_of_one_address_have_a_bound(server: Server) -> None:
    crowd = [connect(server) for _ in range(60)]
    try:
        turned_away = 0
        for connection in crowd:
            connection.settimeout(0.05)
            try:
                turned_away += connection.recv(1) == b""
            except TimeoutError:
                pass
            except ConnectionError:
                turned_away += 1
        assert turned_away >= 20
    finally:
        for connection in crowd:
            connection.close()
    client = server.client(server.credential(), retries={"max_attempts": 5})
    assert client.list_projects()["Projects"] == []  # their places are free again


def test_an_answer_that_nobody_takes(server: Server) -> None:
    key = server.credential()
    s3 = server.client(key, "s3")
    s3.create_bucket(Bucket="large", CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_object(Bucket="large", Key="k", Body=bytes(24 << 20))
    url = urlsplit(s3.generate_presigned_url("get_object", Params={"Bucket": "large", "Key": "k"}, ExpiresIn=60))
    with connect(server) as connection:
        connection.sendall(f"GET {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\n\r\n".encode())
        wait_for((server.data / "audit.log").read_text, lambda text: '"GetObject"' in text, 20)  # the call is over
    # Slowly, but it is taken: 1 MiB at a time, with pauses.
    with connect(server) as connection:
        connection.sendall(f"GET {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: close\r\n\r\n".encode())
        found = 0
        while part := connection.recv(1 << 20):
            found += len(part)
            time.sleep(0.02)
    assert found > 24 << 20


def test_a_handshake_that_never_ends(tmp_path: Path) -> None:
    openssl = need_tool("openssl")
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    subprocess.run([openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
                    "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)  # fmt: skip
    server = Server(tmp_path / "data", {**IMPATIENT, "connections_each": 4, "tls_certificate": certificate, "tls_key": key}).start()
    try:
        silent = [connect(server) for _ in range(4)]
        with connect(server) as turned_away:  # those whose handshake has not begun count already
            assert ended(turned_away) == b""
        assert [ended(connection) for connection in silent] == [b""] * 4
        for connection in silent:
            connection.close()
        context = ssl.create_default_context(cafile=str(certificate))
        with context.wrap_socket(connect(server), server_hostname="127.0.0.1") as connection:
            connection.sendall(b"GET /-/health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200" in connection.recv(100)
        server.stop()
    finally:
        server.kill()
