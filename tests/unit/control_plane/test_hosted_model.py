"""One hosted model without its processes: how many pictures it takes, and what an answer holds."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from linewatch.anomaly_model.bundle import write_bundle
from linewatch.control_plane.errors import ThrottlingError
from linewatch.control_plane.hosting.hosted_model import HostedModel
from linewatch.control_plane.operations.detection import _detect
from linewatch.edge_agent.protos import edge_agent_pb2 as pb
from tests.contract.control_plane.cases import png
from tests.unit.anomaly_model.test_manifest import SMALL

PICTURE = np.zeros((64, 64, 3), np.uint8)


@pytest.mark.parametrize("units", [1, 3])
def test_as_many_pictures_are_judged_at_a_time_as_there_are_units(tmp_path: Path, units: int) -> None:
    model = HostedModel(write_bundle(tmp_path / "b", SMALL, {"model.onnx": b""}).folder, units, None, 1, 0, 10)
    together = threading.Barrier(units + 1, timeout=20)
    judged: list[object] = []

    def judge(*_: object) -> str:
        together.wait()  # until all are being judged
        together.wait()  # until one more was refused
        return "verdict"

    for i in range(units):
        unit: Any = SimpleNamespace(name=f"u{i}", client=SimpleNamespace(detect=judge))
        model._units[unit.name] = unit
        model._free.put(unit)
    threads = [threading.Thread(target=lambda: judged.append(model.detect(PICTURE))) for _ in range(units)]
    for thread in threads:
        thread.start()
    together.wait()
    with pytest.raises(ThrottlingError, match=f"as many as {units} inference units take"):
        model.detect(PICTURE)
    together.wait()
    for thread in threads:
        thread.join()
    assert judged == ["verdict"] * units


@pytest.mark.parametrize("is_segmentation", [False, True])
def test_only_segmentation_models_answer_with_areas_and_a_mask(is_segmentation: bool) -> None:
    area = pb.Anomaly(name="crack", pixel_anomaly=pb.PixelAnomaly(total_percentage_area=0.25, hex_color="#23a436"))
    found = pb.DetectAnomalyResult(is_anomalous=True, confidence=0.75, anomalies=[area] * is_segmentation)
    model = SimpleNamespace(picture_size=(64, 64), is_segmentation=is_segmentation, detect=lambda _: (found, PICTURE if is_segmentation else None))
    call: Any = SimpleNamespace(services=SimpleNamespace(hosting=SimpleNamespace(find=lambda *_: model)))
    answer = _detect(call, {"Body": png(64, 64), "ContentType": "image/png"}, None, ("p", "1"))["DetectAnomalyResult"]
    assert (answer["Source"], answer["IsAnomalous"], answer["Confidence"]) == ({"Type": "direct"}, True, 0.75)
    if is_segmentation:
        assert answer["Anomalies"] == [{"Name": "crack", "PixelAnomaly": {"TotalPercentageArea": 0.25, "Color": "#23A436"}}]
        assert answer["AnomalyMask"].startswith(b"\x89PNG")
    else:
        assert set(answer) == {"Source", "IsAnomalous", "Confidence"}
