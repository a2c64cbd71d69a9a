"""What an operation works with: the store, objects, jobs, hosting, and who calls."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from linewatch.control_plane.access.credentials import Identity, MasterKey
from linewatch.control_plane.access.policy import is_allowed
from linewatch.control_plane.errors import AccessDeniedError
from linewatch.control_plane.identifiers import Scope
from linewatch.control_plane.objects import Objects, is_foreign
from linewatch.control_plane.settings import Settings
from linewatch.control_plane.store.database import Store
from linewatch.control_plane.wire.page_tokens import PageTokens

if TYPE_CHECKING:
    from linewatch.control_plane.hosting.manager import HostingManager

OperationResult = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that lives as long as the server does."""

    settings: Settings
    store: Store
    objects: Objects
    master: MasterKey
    tokens: PageTokens
    hosting: "HostingManager"
    work: threading.Event = field(default_factory=threading.Event)
    """Set when there may be new jobs."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the API."""

    services: Services
    scope: Scope
    identity: Identity

    def require(self, action: str, resource: str, tags: Mapping[str, str] | None = None) -> None:
        """Refuse what the caller's policy does not allow.

        Raises:
            AccessDeniedError: names caller, action and resource.
        """
        if not is_allowed(self.identity.policy, action, resource, tags or {}):
            raise AccessDeniedError(
                f"access key {self.identity.access_key} ({self.identity.name}) is not allowed to perform {action} on {resource}; "
                "its policy says what it may do"
            )

    def require_object(self, action: str, bucket: str, key: str = "") -> None:
        """Refuse what the caller may not do with a bucket or an object: by policy, or because it is another account's.

        Raises:
            AccessDeniedError: the policy does not allow `action`, or the bucket belongs to another account.
        """
        self.require(action, f"arn:aws:s3:::{bucket}" + (f"/{key}" if key else ""))
        self.require_bucket(bucket)

    def require_bucket(self, bucket: str) -> None:
        """Refuse a bucket that belongs to another account. One that is not there is the operation's to tell.

        Raises:
            AccessDeniedError: the bucket belongs to another account.
        """
        if is_foreign(self.services.objects, bucket, self.scope.account):
            raise AccessDeniedError(f"the bucket {bucket[:80]} belongs to another account than {self.scope.account}")
