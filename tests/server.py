"""A real server for tests: `linewatch serve` in a process of its own, on loopback, and what talks to it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from linewatch.control_plane.access.credentials import MasterKey
from linewatch.control_plane.access.policy import ROLES, Policy
from linewatch.control_plane.access.registry import Registry
from linewatch.control_plane.settings import PREFIX, Settings
from linewatch.control_plane.store.database import Store

ROOT = Path(__file__).parents[1]
ACCOUNT = "111122223333"
REGION = "eu-central-1"
START_S = 30


@dataclass
class Server:
    """A server process.

    Attributes:
        data: its data folder.
        settings: other than the defaults.
        url: where it listens, once it is started.
    """

    data: Path
    settings: dict[str, object] = field(default_factory=dict)
    url: str = ""
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> "Server":
        """Start it and wait until it listens."""
        self.data.mkdir(parents=True, exist_ok=True)
        values = {"data": self.data, "port": 0, "account": ACCOUNT, **self.settings}
        environment = {f"{PREFIX}{k.upper()}": str(v) for k, v in values.items()}
        log = self.data.parent / f"{self.data.name}.log"
        with log.open("ab") as stream:
            begin = stream.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "linewatch", "serve"], stdout=stream, stderr=stream, stdin=subprocess.DEVNULL,
                env={**os.environ, **environment},
            )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with log.open("rb") as stream:
                stream.seek(begin)
                text = stream.read().decode(errors="replace")
            for line in text.splitlines():
                if '"server listening"' in line:
                    self.url = json.loads(line)["url"]
                    return self
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        self.kill()
        raise AssertionError(f"the server did not start:\n{text[-3000:]}")

    def stop(self) -> None:
        """End it as an operator does."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0

    def kill(self) -> None:
        """End it as a power cut does."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def log(self) -> str:
        """What it wrote."""
        return (self.data.parent / f"{self.data.name}.log").read_text(errors="replace")

    def store(self) -> Store:
        """Its database."""
        return Store(Settings(data=str(self.data), database=str(self.settings.get("database", ""))).database_url)

    def credential(self, policy: Policy = ROLES["full"], hours: float | None = None, account: str = ACCOUNT) -> dict[str, str]:
        """A new credential, as keyword arguments of a boto3 client."""
        store = self.store()
        made = Registry(store, MasterKey.open(self.data)).create(account, "test", policy, hours)
        store.close()
        return {
            "aws_access_key_id": made["access_key_id"],
            "aws_secret_access_key": made["secret_access_key"],
            **({"aws_session_token": made["session_token"]} if "session_token" in made else {}),
        }

    def client(self, credential: dict[str, str], service: str = "lookoutvision", region: str = REGION, **config: Any) -> Any:
        """A boto3 client of the newest release, with our model of the service."""
        options = {"retries": {"max_attempts": 0}, **config}
        return _session().client(service, endpoint_url=self.url, region_name=region, config=Config(**options), **credential)


@cache
def _session() -> boto3.Session:
    """One for all clients: it reads the models of the services, most of what a client costs."""
    session = boto3.Session()
    session._loader.search_paths.insert(0, str(ROOT / "client_models"))  # type: ignore[attr-defined]
    return session


def wait_for(describe: Callable[[], Any], is_done: Callable[[Any], bool], seconds: float = 60) -> Any:
    """Ask until it is done."""
    deadline = time.monotonic() + seconds
    found = describe()
    while not is_done(found):
        if time.monotonic() > deadline:
            raise AssertionError(f"not done after {seconds} s: {found}")
        time.sleep(0.05)
        found = describe()
    return found
