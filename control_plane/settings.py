"""The server's settings: one frozen object, built once from defaults < TOML file < LINEWATCH_SERVER_* environment < flags."""

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

import msgspec

from linewatch.anomaly_model.settings import SettingsError, load_struct

PREFIX = "LINEWATCH_SERVER_"
_Positive = Annotated[int, msgspec.Meta(ge=1)]
_Count = Annotated[int, msgspec.Meta(ge=0)]
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of `linewatch serve`; in the environment each is called LINEWATCH_SERVER_ and its name in capitals.

    Attributes:
        data: folder of everything that the server keeps: database, objects, models, job logs, master key.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        tls_certificate: PEM file; with it the server speaks HTTPS only.
        tls_key: PEM file of its private key.
        anonymous: answer unsigned calls too; only on a loopback address.
        account: account of unsigned calls, of new credentials and of buckets without an owner, twelve digits.
        region: region of unsigned calls.
        database: address of the database; empty is SQLite in the data folder.
        objects: folder of the buckets, or s3 for an S3 endpoint; empty is objects/ in the data folder.
        objects_endpoint: address of the S3 endpoint; empty is AWS's own.
        objects_timeout_s: seconds without an answer of S3 after which it is asked again.
        audit: file of the audit log; empty is audit.log in the data folder.
        audit_mib: size at which the audit log gets another name, with the time in it, and a new one begins; 0 never.
        audit_files: such older audit logs that are kept; 0 keeps all.
        threads: calls that are worked on together.
        calls_waiting: calls that may wait for their turn; the next one is answered ThrottlingException.
        body_mib: memory for bodies, from their first byte until the call is answered, all together.
        body_s: seconds that a body may stand still in all, beside the time that it takes at 16 KiB a second.
        headers_s: seconds that a connection may take for TLS, for the headers of a request, and to take an answer's next bytes.
        connections: connections that may be open at the same time; more are closed at once.
        connections_each: the same of one IPv4 address, or of one /64 of IPv6.
        proxies: addresses of proxies, by commas: X-Forwarded-For of theirs is believed, and connections_each is not for them.
        jobs_scheduler: address of a dask scheduler, tcp://HOST:PORT; empty runs jobs on this machine.
        jobs_parallel: trainings and packagings that run at the same time, over all workers.
        jobs_lease_s: seconds without a heartbeat after which a job is given to another worker.
        jobs_attempts: how often a job that was lost is tried.
        jobs_keep_days: days after which finished jobs, their folders and logs are removed; 0 keeps them.
        training_effort: quick, standard or thorough.
        training_encoder: the pretrained encoder of models: auto (lite0 where it is installed), none, lite0, lite1 or lite2.
        training_hours: hours after which a training fails.
        packaging_publish: where component versions are created: store (components/ in the data folder), or aws.
        packaging_key: file of the private key that signs packages (`linewatch keys create`); empty leaves them unsigned.
        hosting_threads: CPU threads of one inference unit.
        hosting_queue: calls that may wait for one inference unit.
        hosting_idle_min: minutes without a call after which a hosted model is stopped; 0 never stops one.
        hosting_start_s: seconds that a model may take to start.
        delete_cascades: DeleteProject removes datasets with entries too, as the first generation of the service did.
        quota_projects: most projects of an account and region.
        quota_models: most model versions of a project.
        quota_trainings: most trainings of an account at the same time.
        quota_units: most inference units of one model.
        quota_hosted: most models hosted at the same time.
        quota_packagings: most packaging jobs of an account at the same time.
        quota_tags: most tags of a model.
        quota_train_pictures: most pictures of a training dataset.
        quota_test_pictures: most pictures of a test dataset.
        quota_train_masked: the same for a segmentation model.
        quota_test_masked: the same for a segmentation model.
        quota_labels: most anomaly labels of a project.
        quota_mask_labels: most anomaly labels in one mask.
        least_normal: normal pictures that a single dataset must have.
        least_anomaly: anomalous ones.
        least_normal_each: normal pictures that each of two datasets must have.
        least_test_anomaly: anomalous pictures that a test dataset must have.
        least_label: pictures with only one anomaly label that a single dataset must have of each label.
        least_label_each: the same for each of two datasets.
    """

    data: str = "linewatch-data"
    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8700
    tls_certificate: str = ""
    tls_key: str = ""
    anonymous: bool = False
    account: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{12}$")] = "000000000000"
    region: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,40}$")] = "us-east-1"
    database: str = ""
    objects: str = ""
    objects_endpoint: str = ""
    objects_timeout_s: _Positive = 30
    audit: str = ""
    audit_mib: _Count = 64
    audit_files: _Count = 16
    threads: _Positive = 32
    calls_waiting: _Count = 512
    body_mib: Annotated[int, msgspec.Meta(ge=16)] = 256
    body_s: _Positive = 30
    headers_s: _Positive = 10
    connections: _Positive = 1000
    connections_each: _Positive = 250
    proxies: str = ""
    jobs_scheduler: str = ""
    jobs_parallel: _Positive = 1
    jobs_lease_s: _Positive = 60
    jobs_attempts: _Positive = 3
    jobs_keep_days: _Count = 30
    training_effort: Annotated[str, msgspec.Meta(pattern="^(quick|standard|thorough)$")] = "standard"
    training_encoder: Annotated[str, msgspec.Meta(pattern="^(auto|none|lite[012])$")] = "auto"
    training_hours: _Positive = 24
    packaging_publish: Annotated[str, msgspec.Meta(pattern="^(store|aws)$")] = "store"
    packaging_key: str = ""
    hosting_threads: _Positive = 1
    hosting_queue: _Count = 4
    hosting_idle_min: _Count = 0
    hosting_start_s: _Positive = 120
    delete_cascades: bool = False
    quota_projects: _Positive = 100
    quota_models: _Positive = 100
    quota_trainings: _Positive = 2
    quota_units: _Positive = 5
    quota_hosted: _Positive = 10
    quota_packagings: _Positive = 5
    quota_tags: _Positive = 50
    quota_train_pictures: _Positive = 16000
    quota_test_pictures: _Positive = 4000
    quota_train_masked: _Positive = 8000
    quota_test_masked: _Positive = 800
    quota_labels: _Positive = 100
    quota_mask_labels: _Positive = 20
    least_normal: _Count = 20
    least_anomaly: _Count = 10
    least_normal_each: _Count = 10
    least_test_anomaly: _Count = 10
    least_label: _Count = 20
    least_label_each: _Count = 10

    @property
    def folder(self) -> Path:
        """The data folder."""
        return Path(self.data)

    @property
    def proxy_names(self) -> tuple[str, ...]:
        """Addresses of proxies."""
        return tuple(name for part in self.proxies.split(",") if (name := part.strip()))

    @property
    def database_url(self) -> str:
        """Address of the database."""
        return self.database or f"sqlite:///{self.folder.absolute() / 'linewatch.db'}"

    def bundle_folder(self, model_id: int) -> Path:
        """Where a trained model lies, by the number of its row."""
        return (self.folder / "models" / str(model_id) / "bundle").absolute()

    def most_pictures(self, kind: str) -> int:
        """Most pictures of a train or test dataset."""
        return self.quota_train_pictures if kind == "train" else self.quota_test_pictures

    @property
    def objects_root(self) -> str:
        """Folder of the buckets, or s3."""
        return "s3" if self.objects == "s3" else str(Path(self.objects or self.folder / "objects").absolute())

    @property
    def audit_file(self) -> Path:
        """The audit log."""
        return Path(self.audit) if self.audit else self.folder / "audit.log"


def load_settings(
    file: Path | None = None, environment: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> Settings:
    """Build the settings; flags that are None were not given.

    Raises:
        SettingsError: an unknown name (the known ones are listed), a wrong value, or values that do not go together.
    """
    settings = load_struct(Settings, PREFIX, file, environment, flags)
    if settings.anonymous and settings.host not in LOOPBACK:
        raise SettingsError(
            f"anonymous is set and host is {settings.host}: anybody on the network could call. Bind to 127.0.0.1, or make "
            "credentials with: linewatch credentials create"
        )
    for name in settings.proxy_names:
        try:
            ip_address(name)
        except ValueError:
            raise SettingsError(f"proxies names {name!r}; expected IP addresses, separated by commas") from None
    if bool(settings.tls_certificate) != bool(settings.tls_key):
        raise SettingsError("tls_certificate and tls_key go together; give both files, or none")
    return settings
