"""Metrics of hosted models, read from the store when somebody asks: minimum, maximum, desired and in-service units."""

from collections.abc import Iterator

import sqlalchemy as sa
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from linewatch.control_plane.hosting.manager import HostingManager
from linewatch.control_plane.operations.models import ACTIVE
from linewatch.control_plane.store.database import Store
from linewatch.control_plane.store.schema import models, projects

LABELS = ("ProjectName", "ModelVersion")


class HostingCollector(Collector):
    """Gauges of inference units, by project and model version. Models that are not hosted have none."""

    def __init__(self, store: Store, hosting: HostingManager) -> None:
        self._store, self._hosting = store, hosting

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """All of them, as they are now."""
        names = {
            "min": "MinInferenceUnits: units that are always there",
            "max": "MaxInferenceUnits: units that may be there",
            "desired": "DesiredInferenceUnits: units that the load asks for",
            "in_service": "InServiceInferenceUnits: units that serve",
        }
        gauges = {name: GaugeMetricFamily(f"linewatch_{name}_inference_units", text, labels=LABELS) for name, text in names.items()}
        joined = models.join(projects, models.c.project_id == projects.c.id)
        query = sa.select(models, projects.c.name).select_from(joined).where(models.c.status.in_(ACTIVE))
        with self._store.read() as connection:
            rows = connection.execute(query).all()
        for row in rows:
            labels = (row.name, str(row.version))
            desired, serving = self._hosting.units(row.id)
            for name, value in (("min", row.min_units), ("max", row.max_units or row.min_units), ("desired", desired or row.min_units),
                                ("in_service", serving)):  # fmt: skip
                gauges[name].add_metric(labels, value)
        yield from gauges.values()
