"""What a credential may do: statements in the form of IAM policies. Pure.

A policy is a list of statements. A call is allowed when a statement allows it and none denies it. Actions are compared
without regard to case (`LookoutVision:` occurs in documents), and `*` and `?` are wildcards, in resources too. The only
condition is on a model's tags: {"StringEquals": {"aws:ResourceTag/KEY": VALUE or list}}.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Literal

import msgspec

from anomaly_model.errors import LinewatchError

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


def is_allowed(policy: Policy, action: str, resource: str, tags: Mapping[str, str]) -> bool:
    """Whether a policy allows an action on a resource (an ARN) with these tags."""
    effects = {s.Effect for s in policy.Statement if _applies(s, action, resource, tags)}
    return effects == {"Allow"}


def _applies(statement: Statement, action: str, resource: str, tags: Mapping[str, str]) -> bool:
    wanted = (statement.Condition or {}).get("StringEquals", {})
    return (
        any(fnmatchcase(action.lower(), a.lower()) for a in _list(statement.Action))
        and any(_matches(resource, r) for r in _list(statement.Resource))
        and all(tags.get(key.removeprefix(_TAG)) in _list(value) for key, value in wanted.items())
    )


def _matches(resource: str, pattern: str) -> bool:
    # fnmatch would read brackets as a set of characters; in policies they are brackets.
    return fnmatchcase(resource, pattern.replace("[", "[[]"))


def _list(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value
