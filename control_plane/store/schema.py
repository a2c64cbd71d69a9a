"""The tables. Times are epoch seconds; every resource belongs to an account and a region through its project."""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
Id = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only where the type is INTEGER."""

Row = Any
"""A row of a table, as a query gives it; its columns are attributes."""

credentials = Table(
    "credentials",
    metadata,
    Column("access_key", String(128), primary_key=True),
    Column("account", String(12), nullable=False),
    Column("name", String(255), nullable=False),
    Column("policy", JSON, nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float),
)

projects = Table(
    "projects",
    metadata,
    Column("id", Id, primary_key=True),
    Column("account", String(12), nullable=False),
    Column("region", String(40), nullable=False),
    Column("name", String(255), nullable=False),
    Column("created", Float, nullable=False),
    # The next model version: versions of deleted models are not given again.
    Column("next_version", Integer, nullable=False, server_default="1"),
    UniqueConstraint("account", "region", "name"),
    sqlite_autoincrement=True,
)

datasets = Table(
    "datasets",
    metadata,
    Column("id", Id, primary_key=True),
    Column("project_id", Id, ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    # train or test; null for a deleted one whose entries are still being removed.
    Column("kind", String(10)),
    Column("status", String(40), nullable=False),
    Column("message", Text, nullable=False, server_default=""),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    UniqueConstraint("project_id", "kind"),
    sqlite_autoincrement=True,
)

entries = Table(
    "entries",
    metadata,
    Column("id", Id, primary_key=True),
    Column("dataset_id", Id, ForeignKey("datasets.id", ondelete="CASCADE"), nullable=False),
    Column("source_ref", String(2048), nullable=False),
    Column("line", Text, nullable=False),
    # normal or anomaly; null for an unlabelled picture.
    Column("anomaly_class", String(10)),
    Column("created", Float, nullable=False),
    UniqueConstraint("dataset_id", "source_ref"),
    Index("ix_entries_dataset_id_id", "dataset_id", "id"),
    Index("ix_entries_dataset_id_anomaly_class", "dataset_id", "anomaly_class"),
    sqlite_autoincrement=True,
)

models = Table(
    "models",
    metadata,
    Column("id", Id, primary_key=True),
    Column("project_id", Id, ForeignKey("projects.id"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("status", String(40), nullable=False),
    Column("message", Text, nullable=False, server_default=""),
    Column("created", Float, nullable=False),
    Column("description", String(500)),
    Column("kms_key", String(2048)),
    Column("output_bucket", String(63), nullable=False),
    Column("output_prefix", String(1024), nullable=False),
    Column("performance", JSON),
    Column("evaluation_manifest", String(2048)),
    Column("evaluation_result", String(2048)),
    Column("evaluated", Float),
    Column("min_units", Integer),
    Column("max_units", Integer),
    UniqueConstraint("project_id", "version"),
    sqlite_autoincrement=True,
)

tags = Table(
    "tags",
    metadata,
    Column("model_id", Id, ForeignKey("models.id", ondelete="CASCADE"), primary_key=True),
    Column("key", String(128), primary_key=True),
    Column("value", String(256), nullable=False),
)

packagings = Table(
    "packagings",
    metadata,
    Column("id", Id, primary_key=True),
    Column("project_id", Id, ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    Column("name", String(64), nullable=False),
    Column("model_version", Integer, nullable=False),
    Column("configuration", JSON, nullable=False),
    Column("description", String(256)),
    Column("status", String(40), nullable=False),
    Column("message", Text, nullable=False, server_default=""),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    UniqueConstraint("project_id", "name"),
    sqlite_autoincrement=True,
)

components = Table(
    "components",
    metadata,
    Column("account", String(12), primary_key=True),
    Column("region", String(40), primary_key=True),
    Column("name", String(128), primary_key=True),
    Column("version", String(64), primary_key=True),
    # The packaging that makes it; a failed one gives the name and version back.
    Column("packaging_id", Id, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Id, primary_key=True),
    Column("kind", String(20), nullable=False),
    # Id of the dataset, model or packaging that the job is for.
    Column("subject_id", Id, nullable=False),
    Column("state", String(20), nullable=False),
    Column("spec", JSON, nullable=False),
    Column("attempt", Integer, nullable=False, server_default="0"),
    # Attempts that failed by themselves; those that ended with the server do not count against a job.
    Column("losses", Integer, nullable=False, server_default="0"),
    # Until when the attempt is believed to be alive; renewed by its heartbeat.
    Column("lease", Float),
    Column("heartbeat", Float),
    Column("message", Text, nullable=False, server_default=""),
    Column("log", Text, nullable=False, server_default=""),
    Column("created", Float, nullable=False),
    Column("finished", Float),
    Index("ix_jobs_state", "state"),
    Index("ix_jobs_kind_subject_id", "kind", "subject_id"),
    sqlite_autoincrement=True,
)

job_events = Table(
    "job_events",
    metadata,
    Column("id", Id, primary_key=True),
    Column("job_id", Id, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("at", Float, nullable=False),
    Column("before", String(20), nullable=False),
    Column("after", String(20), nullable=False),
    Column("note", Text, nullable=False, server_default=""),
    Index("ix_job_events_job_id", "job_id"),
    sqlite_autoincrement=True,
)

client_tokens = Table(
    "client_tokens",
    metadata,
    Column("account", String(12), primary_key=True),
    Column("region", String(40), primary_key=True),
    Column("operation", String(64), primary_key=True),
    Column("token", String(64), primary_key=True),
    Column("request", String(64), nullable=False),
    # Null while the first call is running.
    Column("answer", JSON(none_as_null=True)),
    Column("created", Float, nullable=False),
    Index("ix_client_tokens_created", "created"),
)
