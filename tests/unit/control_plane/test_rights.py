"""Rights to pictures, masks and places for results: asked for each, by the policy of whoever calls."""

import json
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from linewatch.control_plane.access.policy import ROLES, Permission, Policy, Statement
from linewatch.control_plane.access.registry import Registry
from linewatch.control_plane.errors import AccessDeniedError
from linewatch.control_plane.jobs.background_tasks import BackgroundTaskError, import_manifest, update_entries
from linewatch.control_plane.jobs.preparation import PreparationError, prepare
from linewatch.control_plane.jobs.worker import LOG, JobSpec, run_job
from linewatch.control_plane.rights import CALLER, caller_of, require_readable, require_writable
from linewatch.control_plane.services import Services
from linewatch.control_plane.store.job_queue import add_job, store_changes
from linewatch.control_plane.store.schema import datasets, entries, jobs, models, projects
from tests.unit.control_plane.test_s3_api import gateway_of

ACCOUNT, OTHER = "000000000000", "222222222222"
OPEN, SECRET = "arn:aws:s3:::open/*", "arn:aws:s3:::secret/*"


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    for _, found in gateway_of(tmp_path, anonymous=False):
        objects: Any = found.objects
        for bucket, account in (("open", ACCOUNT), ("secret", ACCOUNT), ("out", ACCOUNT), ("theirs", OTHER)):
            objects.create_bucket(bucket, account)
        yield found


def key_of(services: Services, *statements: Statement) -> str:
    policy = Policy(list(statements)) if statements else ROLES["full"]
    return Registry(services.store, services.master).create(ACCOUNT, "test", policy)["access_key_id"]


def entry(picture: str, mask: str = "") -> bytes:
    label = {"class-name": "anomaly", "type": "groundtruth/image-classification", "human-annotated": "yes"}
    line: dict[str, Any] = {"source-ref": picture, "label": 1, "label-metadata": label}
    if mask:
        colors = {"1": {"class-name": "scratch", "hex-color": "#2ca02c"}}
        about = {"internal-color-map": colors, "type": "groundtruth/semantic-segmentation", "human-annotated": "yes"}
        line |= {"mask-ref": mask, "mask-ref-metadata": about}
    return json.dumps(line).encode()


def job_of(services: Services, kind: str, spec: dict[str, Any], status: str, lines: list[bytes] = []) -> Any:  # noqa: B006
    """A job for the dataset, or the model, of a new project."""
    with services.store.write() as c:
        project = c.execute(sa.insert(projects).values(account=ACCOUNT, region="us-east-1", name="p", created=1.0).returning(projects.c.id)).scalar()
        subject = c.execute(sa.insert(datasets).values(project_id=project, kind="train", status=status, created=1.0, updated=1.0)
                            .returning(datasets.c.id)).scalar_one()  # fmt: skip
        for i, line in enumerate(lines):
            c.execute(sa.insert(entries).values(dataset_id=subject, source_ref=f"s3://x/{i}", line=line.decode(), anomaly_class="anomaly",
                                                created=1.0))  # fmt: skip
        if kind == "train":
            subject = c.execute(sa.insert(models).values(project_id=project, version=1, status="TRAINING", created=1.0, output_bucket="out",
                                                         output_prefix="o/").returning(models.c.id)).scalar_one()  # fmt: skip
        return c.execute(sa.select(jobs).where(jobs.c.id == add_job(c, kind, subject, spec))).one()


READS_OPEN = (Statement("Allow", "s3:GetObject", OPEN), Statement("Allow", "s3:PutObject", "arn:aws:s3:::out/*"))
LINES = [
    ([entry("s3://secret/a")], "1 of 1 pictures and masks: s3://secret/a"),
    ([entry("s3://open/a", "s3://secret/mask.png")], "s3://secret/mask.png"),
    ([entry("s3://theirs/a")], "s3://theirs/a"),
]


@pytest.mark.parametrize(("lines", "named"), LINES)
def test_a_manifest_opens_no_picture_that_its_writer_may_not_read(services: Services, tmp_path: Path, lines: list[bytes], named: str) -> None:
    (tmp_path / "objects" / "open" / "m").write_bytes(b"\n".join(lines))
    spec = {"bucket": "open", "key": "m", "version": None, CALLER: key_of(services, *READS_OPEN)}
    with pytest.raises(BackgroundTaskError, match=named):
        import_manifest(services, job_of(services, "import", spec, "CREATE_IN_PROGRESS"))


@pytest.mark.parametrize(("lines", "named"), LINES)
def test_entries_that_are_added_open_none_either(services: Services, tmp_path: Path, lines: list[bytes], named: str) -> None:
    spec = {"changes": store_changes(tmp_path, b"\n".join(lines)), CALLER: key_of(services, *READS_OPEN)}
    with pytest.raises(BackgroundTaskError, match=named):
        update_entries(services, job_of(services, "update", spec, "UPDATE_IN_PROGRESS"))
    with services.store.read() as connection:
        assert connection.execute(sa.select(entries)).first() is None


@pytest.mark.parametrize(("lines", "named"), LINES)
def test_a_training_reads_by_the_rights_of_who_asked_for_it(services: Services, lines: list[bytes], named: str) -> None:
    spec = {CALLER: key_of(services, *READS_OPEN)}
    with pytest.raises(PreparationError, match=named):
        prepare(services, job_of(services, "train", spec, "CREATE_COMPLETE", lines))


def test_rights_are_those_of_when_the_job_runs(services: Services) -> None:
    key = key_of(services, *READS_OPEN)
    job = job_of(services, "train", {CALLER: key}, "CREATE_COMPLETE", [entry("s3://open/a", "s3://open/m.png")])
    prepared = prepare(services, job)
    assert (prepared.fetch, prepared.account) == (["s3://open/a", "s3://open/m.png"], ACCOUNT)
    Registry(services.store, services.master).delete(key)
    for spec in (job.spec, {}, {CALLER: "anonymous"}):
        with pytest.raises(AccessDeniedError, match="ask again"):
            caller_of(services, spec)
    with pytest.raises(PreparationError, match="ask again"):
        prepare(services, job)
    (Path(prepared.folder) / LOG).touch()  # its process was started: it has read what it needs
    assert prepare(services, job) == prepared


@pytest.mark.parametrize(("fetch", "upload"), [(["s3://theirs/a"], []), ([], [("result", "theirs", "k", "text/plain")])])
def test_a_bucket_that_became_anothers_meanwhile_is_left_alone(
    services: Services, tmp_path: Path, fetch: list[str], upload: list[tuple[str, str, str, str]]
) -> None:  # fmt: skip
    objects: Any = services.objects
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "result").write_bytes(b"x")
    (tmp_path / "objects" / "theirs" / "a").write_bytes(b"x")
    if upload:
        (folder / "outcome.json").write_bytes(b'{"error": ""}')
    done = run_job(msgspec.json.encode(JobSpec("train", str(folder), 1.0, str(objects.root), "", "r", 1, fetch, upload, ACCOUNT)))
    assert "theirs belongs to another account" in msgspec.json.decode(done)["error"]
    assert not (tmp_path / "objects" / "theirs" / "k").exists()


@pytest.mark.parametrize(("statements", "allowed"), [
    ([Statement("Allow", "s3:PutObject", "arn:aws:s3:::out/*")], True),
    ([Statement("Allow", "s3:PutObject", ["arn:aws:s3:::out/o/a.json", "arn:aws:s3:::out/o/masks/*"])], True),
    ([Statement("Allow", "s3:PutObject", "arn:aws:s3:::out/o/a.json")], False),
    ([Statement("Allow", "s3:PutObject", "arn:aws:s3:::out/o/?")], False),
    ([Statement("Allow", "*"), Statement("Deny", "s3:PutObject", "arn:aws:s3:::out/o/a.json")], False),
    ([Statement("Allow", "*"), Statement("Deny", "s3:PutObject", "arn:aws:s3:::out/o/masks/7.png")], False),
    ([Statement("Allow", "*"), Statement("Deny", "s3:PutObject", "arn:aws:s3:::out/other/*")], True),
    ([Statement("Allow", "s3:GetObject")], False),
])  # fmt: skip
def test_results_go_where_the_caller_may_write(services: Services, statements: list[Statement], allowed: bool) -> None:
    call = caller_of(services, {CALLER: key_of(services, *statements)})
    if allowed:
        require_writable(call, "out", ["o/a.json"], "o/masks/")
    else:
        with pytest.raises(AccessDeniedError, match="s3:PutObject on arn:aws:s3:::out/o/"):
            require_writable(call, "out", ["o/a.json"], "o/masks/")


def test_results_go_to_no_other_account(services: Services) -> None:
    call = caller_of(services, {CALLER: key_of(services)})
    with pytest.raises(AccessDeniedError, match="another account"):
        require_writable(call, "theirs", [], "")
    with pytest.raises(AccessDeniedError, match="s3://theirs/a"):
        require_readable(call, ["s3://open/a", "s3://theirs/a"])


TEXT = st.text("ab/*?", max_size=5)


@given(st.lists(TEXT, max_size=3), st.lists(TEXT, max_size=3), TEXT, TEXT)
def test_what_is_allowed_below_a_prefix_is_allowed_for_each_key(allow: list[str], deny: list[str], prefix: str, rest: str) -> None:
    statements = [Statement("Allow", "s3:PutObject", allow), Statement("Deny", "s3:PutObject", deny)]
    permission = Permission(Policy(statements), "s3:PutObject")
    expected = any(fnmatchcase(prefix + rest, p) for p in allow) and not any(fnmatchcase(prefix + rest, p) for p in deny)
    assert permission.allows(prefix + rest) is expected
    assert permission.allows(prefix + rest) or not permission.allows_below(prefix)


