"""What a credential may do: statements in the form of IAM policies. Pure.

A policy is a list of statements. A call is allowed when a statement allows it and none denies it. Actions are compared
without regard to case (`LookoutVision:` occurs in documents), and `*` and `?` are wildcards, in resources too. The only
condition is on a model's tags: {"StringEquals": {"aws:ResourceTag/KEY": VALUE or list}}.
"""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase, translate
from functools import lru_cache
from typing import Annotated, Literal

import msgspec

from linewatch.anomaly_model.errors import LinewatchError

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]
_TAG = "aws:ResourceTag/"


class PolicyError(LinewatchError):
    """A policy document is malformed."""


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A statement, with the names of IAM policies."""

    Effect: Literal["Allow", "Deny"]
    Action: _Text | list[_Text]
    Resource: _Text | list[_Text] = "*"
    Sid: str = ""
    Condition: dict[Literal["StringEquals"], dict[_Text, str | list[str]]] | None = None


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A policy document."""

    Statement: list[Statement]
    Version: str = "2012-10-17"


_READS = ["lookoutvision:Describe*", "lookoutvision:List*", "rekognition:Describe*"]
ROLES: dict[str, Policy] = {
    "full": Policy([Statement("Allow", "*")]),
    "read-only": Policy([Statement("Allow", _READS)]),
    "line": Policy([Statement("Allow", [*_READS, "lookoutvision:DetectAnomalies"])]),
}
"""Ready-made policies. `full`: everything; `read-only`: the describe and list calls; `line`: these and DetectAnomalies."""


def parse_policy(data: bytes) -> Policy:
    """Read a policy document.

    Raises:
        PolicyError: what is wrong, and where.
    """
    try:
        policy = msgspec.json.decode(data, type=Policy)
    except msgspec.DecodeError as error:
        raise PolicyError(
            f"the policy is not a document of the form {{\"Statement\": [{{\"Effect\": \"Allow\", \"Action\": ...}}]}}: {error}"
        ) from error
    for statement in policy.Statement:
        for key in (statement.Condition or {}).get("StringEquals", {}):
            if not key.startswith(_TAG):
                raise PolicyError(f"the condition key {key!r} is not known; the only ones are {_TAG}KEY")
    return policy


class Permission:
    """What a policy says of one action: made once, asked of as many resources as there are."""

    def __init__(self, policy: Policy, action: str, tags: Mapping[str, str] | None = None) -> None:
        """Find the statements that count.

        Args:
            policy: of the caller.
            action: SERVICE:NAME.
            tags: of the resources.
        """
        counting = [s for s in policy.Statement if _concerns(s, action, tags or {})]
        self._allowed, self._denied = (
            tuple(r for s in counting if s.Effect == effect for r in _list(s.Resource)) for effect in ("Allow", "Deny")
        )

    def allows(self, resource: str) -> bool:
        """Whether the action is allowed on a resource (an ARN)."""
        return bool(_matcher(self._allowed).match(resource)) and not _matcher(self._denied).match(resource)

    def allows_below(self, prefix: str) -> bool:
        """Whether the action is allowed on every resource that begins so, whatever follows."""
        allowed = tuple(p for p in self._allowed if p.endswith("*"))  # which takes whatever follows
        return bool(_matcher(allowed).match(prefix)) and not any(_goes_on(p, prefix) for p in self._denied)


def is_allowed(policy: Policy, action: str, resource: str, tags: Mapping[str, str]) -> bool:
    """Whether a policy allows an action on a resource (an ARN) with these tags.

    Args:
        policy: of the caller.
        action: SERVICE:NAME.
        resource: an ARN.
        tags: of the resource.
    """
    return Permission(policy, action, tags).allows(resource)


def _concerns(statement: Statement, action: str, tags: Mapping[str, str]) -> bool:
    wanted = (statement.Condition or {}).get("StringEquals", {})
    return any(fnmatchcase(action.lower(), a.lower()) for a in _list(statement.Action)) and all(
        tags.get(key.removeprefix(_TAG)) in _list(value) for key, value in wanted.items()
    )


@lru_cache(4096)
def _matcher(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """Matches what one of the patterns does."""
    # fnmatch would read brackets as a set of characters; in policies they are brackets.
    return re.compile("|".join(translate(p.replace("[", "[[]")) for p in patterns) or "(?!)")


def _goes_on(pattern: str, prefix: str) -> bool:
    """Whether a pattern matches something that begins with the prefix."""
    places = _behind_stars(pattern, {0})  # of the pattern, that what was read so far may have come to
    for character in prefix:
        taken = {p for p in places if p < len(pattern) and pattern[p] in ("*", "?", character)}
        places = _behind_stars(pattern, {p if pattern[p] == "*" else p + 1 for p in taken})
    return bool(places)


def _behind_stars(pattern: str, places: set[int]) -> set[int]:
    """The places, and those behind stars there, which may stand for nothing."""
    return places | {end for place in places for end in range(place + 1, len(pattern) + 1) if set(pattern[place:end]) == {"*"}}


def _list(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value
