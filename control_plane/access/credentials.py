"""Access keys. Their secrets are nowhere in the store: each is derived from the key's id and the server's master key.

SigV4 needs the secret itself on the server's side, so a hash of it would not do; this way a copy of the database alone lets
nobody in. The master key is a file of the data folder that only its owner may read.
"""

import base64
import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.anomaly_model.files import replace_file
from linewatch.control_plane.access.policy import Policy

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_SECRET_CHARS = 40
KEY_FILE = "master.key"
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls.

    Attributes:
        access_key: id of the credential; "anonymous" where no signature is asked for.
        account: twelve digits.
        policy: what it may do.
        name: as the person who made it called it.
    """

    access_key: str
    account: str
    policy: Policy
    name: str


def new_access_key(temporary: bool) -> str:
    """A fresh id, 20 characters; temporary ones begin with ASIA, as AWS has it."""
    return ("ASIA" if temporary else "AKIA") + "".join(secrets.choice(_ALPHABET) for _ in range(16))


class MasterKey:
    """The key that secrets, session tokens and page tokens derive from."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def open(cls, folder: Path) -> "MasterKey":
        """Read the key file, or make it.

        Raises:
            LinewatchError: it is not a key, or others may read it.
        """
        path = folder / KEY_FILE
        if not path.exists():
            part = path.with_suffix(f".{secrets.token_hex(8)}")
            replace_file(part, secrets.token_bytes(_KEY_BYTES), mode=0o600)
            with suppress(FileExistsError):  # somebody else made one at the same time: theirs counts
                os.link(part, path)
            part.unlink()
        status, key = path.stat(), path.read_bytes()
        if len(key) != _KEY_BYTES:
            raise LinewatchError(f"{path} has {len(key)} bytes, a key has {_KEY_BYTES}; put the file of the backup back")
        if status.st_mode & 0o077:
            raise LinewatchError(f"others than its owner may read {path}; every secret derives from it. Run: chmod 600 {path}")
        return cls(key)

    def derive(self, purpose: str, text: str = "") -> bytes:
        """32 bytes for one purpose."""
        return hmac.new(self._key, f"{purpose}\n{text}".encode(), hashlib.sha256).digest()

    def secret(self, access_key: str) -> str:
        """Secret of an access key: 40 characters."""
        return base64.b64encode(self.derive("secret", access_key)).decode()[:_SECRET_CHARS]

    def session_token(self, access_key: str) -> str:
        """Session token of a temporary access key."""
        return base64.b64encode(self.derive("session", access_key)).decode()
