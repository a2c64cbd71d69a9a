"""Policies, credentials and what the audit log tells."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.control_plane.access.audit import AuditLog, loggable
from linewatch.control_plane.access.credentials import KEY_FILE, MasterKey, new_access_key
from linewatch.control_plane.access.policy import ROLES, Policy, PolicyError, Statement, is_allowed, parse_policy

MODEL = "arn:aws:lookoutvision:us-east-1:123456789012:model/myproject/1"


@pytest.mark.parametrize(("statement", "allowed"), [
    ({"Effect": "Allow", "Action": "*"}, True),
    ({"Effect": "Allow", "Action": "LookoutVision:StartModel"}, True),
    ({"Effect": "Allow", "Action": ["lookoutvision:Start*", "s3:*"], "Resource": "arn:aws:lookoutvision:*:*:model/myproject/*"}, True),
    ({"Effect": "Allow", "Action": "lookoutvision:StopModel"}, False),
    ({"Effect": "Allow", "Action": "*", "Resource": "arn:aws:lookoutvision:us-east-1:123456789012:model/other/*"}, False),
    ({"Effect": "Deny", "Action": "*"}, False),
    ({"Effect": "Allow", "Action": "*", "Condition": {"StringEquals": {"aws:ResourceTag/line": ["6", "7"]}}}, True),
    ({"Effect": "Allow", "Action": "*", "Condition": {"StringEquals": {"aws:ResourceTag/line": "8"}}}, False),
    ({"Effect": "Allow", "Action": "*", "Condition": {"StringEquals": {"aws:ResourceTag/none": "7"}}}, False),
])  # fmt: skip
def test_statements(statement: dict[str, object], allowed: bool) -> None:
    policy = parse_policy(msgspec.json.encode({"Version": "2012-10-17", "Statement": [statement]}))
    assert is_allowed(policy, "lookoutvision:StartModel", MODEL, {"line": "7"}) is allowed


def test_a_denial_wins() -> None:
    policy = Policy([Statement("Allow", "*"), Statement("Deny", "lookoutvision:Delete*")])
    assert is_allowed(policy, "lookoutvision:StartModel", MODEL, {})
    assert not is_allowed(policy, "lookoutvision:DeleteModel", MODEL, {})


def test_roles() -> None:
    for role, action, allowed in [
        ("full", "lookoutvision:DeleteProject", True), ("read-only", "lookoutvision:DescribeModel", True),
        ("read-only", "lookoutvision:DetectAnomalies", False), ("line", "lookoutvision:DetectAnomalies", True),
        ("line", "lookoutvision:StopModel", False), ("read-only", "s3:GetObject", False),
    ]:  # fmt: skip
        assert is_allowed(ROLES[role], action, MODEL, {}) is allowed, (role, action)


@pytest.mark.parametrize("document", [
    b"{", b"[]", b"{}", b'{"Statement": [{"Effect": "Maybe", "Action": "*"}]}', b'{"Statement": [{"Effect": "Allow"}]}',
    b'{"Statement": [{"Effect": "Allow", "Action": "*", "NotAction": "*"}]}',
    b'{"Statement": [{"Effect": "Allow", "Action": "*", "Condition": {"IpAddress": {}}}]}',
    b'{"Statement": [{"Effect": "Allow", "Action": "*", "Condition": {"StringEquals": {"aws:username": "x"}}}]}',
])  # fmt: skip
def test_a_policy_that_would_not_be_understood_is_refused(document: bytes) -> None:
    with pytest.raises(PolicyError):
        parse_policy(document)


@given(st.text(max_size=20), st.text(max_size=20))
def test_brackets_are_no_sets_of_characters(prefix: str, text: str) -> None:
    resource = f"{prefix}[{text}]".replace("*", "").replace("?", "")
    assert is_allowed(Policy([Statement("Allow", "*", resource)]), "a:B", resource, {})


def test_secrets_derive_from_the_key_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    key = MasterKey.open(tmp_path)
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    again = MasterKey.open(tmp_path)
    name = new_access_key(temporary=False)
    assert key.secret(name) == again.secret(name)
    assert len(key.secret(name)) == 40
    assert key.secret(name) != key.secret(new_access_key(temporary=False))
    assert key.session_token(name) not in (key.secret(name), key.session_token("other"))
    assert [new_access_key(temporary=t)[:4] for t in (False, True)] == ["AKIA", "ASIA"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [KEY_FILE]


def test_a_key_that_others_may_read_is_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    MasterKey.open(tmp_path)
    (tmp_path / KEY_FILE).chmod(0o644)
    with pytest.raises(LinewatchError, match="chmod 600"):
        MasterKey.open(tmp_path)
    (tmp_path / KEY_FILE).write_bytes(b"short")
    with pytest.raises(LinewatchError, match="5 bytes"):
        MasterKey.open(tmp_path)


def test_the_audit_log_tells_no_bytes(tmp_path) -> None:  # type: ignore[no-untyped-def]
    found = loggable({"Body": b"picture", "ProjectName": "p" * 1000, "Tags": [{"Key": "a"}] * 100, "MaxResults": 5})
    assert found == {"body": "<7 bytes>", "projectName": "p" * 500, "tags": [{"key": "a"}] * 50, "maxResults": 5}
    log = AuditLog(tmp_path / "deep" / "audit.log")
    log.write(a=1)
    log.write(b="x")
    log.close()
    assert [msgspec.json.decode(line) for line in (tmp_path / "deep" / "audit.log").read_bytes().splitlines()] == [{"a": 1}, {"b": "x"}]
