"""What a training is given: the datasets as they are when it begins."""

from pathlib import Path

import msgspec
import sqlalchemy as sa

from linewatch.anomaly_model.child_job import SPEC
from linewatch.control_plane.access.credentials import MasterKey
from linewatch.control_plane.entries import parse_entry
from linewatch.control_plane.hosting.manager import HostingManager
from linewatch.control_plane.jobs.preparation import prepare
from linewatch.control_plane.objects.directory import DirectoryObjects
from linewatch.control_plane.services import Services
from linewatch.control_plane.settings import Settings
from linewatch.control_plane.store.database import Store
from linewatch.control_plane.store.schema import datasets, entries, jobs, models, projects
from linewatch.control_plane.wire.page_tokens import PageTokens

ABOUT = {"class-name": "normal", "type": "groundtruth/image-classification", "human-annotated": "yes"}


def add(store: Store, dataset_id: int, *names: str) -> None:
    """Labelled pictures, and one without a label."""
    lines = [{"source-ref": f"s3://bkt/{name}", "l": 0, "l-metadata": ABOUT} for name in names] + [{"source-ref": f"s3://bkt/plain-{names[0]}"}]
    with store.write() as connection:
        for line in lines:
            entry = parse_entry(msgspec.json.encode(line))
            connection.execute(sa.insert(entries).values(dataset_id=dataset_id, source_ref=entry.source_ref, line=entry.line,
                                                         anomaly_class=entry.anomaly_class, created=1.0))  # fmt: skip


def test_a_training_learns_from_the_datasets_that_there_are(tmp_path: Path) -> None:
    options = Settings(data=str(tmp_path), anonymous=True, account="1" * 12, region="r")
    store = Store(options.database_url)
    store.migrate()
    services = Services(options, store, DirectoryObjects(tmp_path / "objects"), MasterKey.open(tmp_path), PageTokens(b"k"),
                        HostingManager(options, store))  # fmt: skip
    dataset = {"project_id": 1, "status": "CREATE_COMPLETE", "created": 1.0, "updated": 1.0}
    with store.write() as c:
        c.execute(sa.insert(projects).values(id=1, account="1" * 12, region="r", name="p", created=0))
        c.execute(sa.insert(datasets).values(id=1, kind="train", **dataset))
        for number in (1, 2, 3):
            c.execute(sa.insert(models).values(id=number, project_id=1, version=number, status="TRAINING", created=0, output_bucket="bkt",
                                               output_prefix=""))  # fmt: skip
            c.execute(sa.insert(jobs).values(id=number, kind="train", subject_id=number, state="QUEUED", spec={"caller": "anonymous"}, created=0))
    add(store, 1, "a", "b")

    def prepared(number: int) -> tuple[list[str], bool, float]:
        """Pictures that are fetched, whether there is a test dataset, and the most hours."""
        with store.read() as c:
            job = c.execute(sa.select(jobs).where(jobs.c.id == number)).one()
        prepared = prepare(services, job)
        spec = msgspec.json.decode((Path(prepared.folder) / SPEC).read_bytes())
        return [name.removeprefix("s3://bkt/") for name in prepared.fetch], spec["test_manifest"] is not None, prepared.hours

    assert prepared(1) == (["a", "b"], False, 24)
    with store.write() as c:
        c.execute(sa.insert(datasets).values(id=2, kind="test", **dataset))
    add(store, 2, "t")
    assert prepared(2) == (["a", "b", "t"], True, 24)
    with store.write() as c:
        c.execute(sa.update(datasets).where(datasets.c.id == 2).values(kind=None, status="DELETE_IN_PROGRESS"))
    assert prepared(3) == (["a", "b"], False, 24)
    add(store, 1, "later")
    assert prepared(1) == (["a", "b"], False, 24)  # as it was when it began
    store.close()
