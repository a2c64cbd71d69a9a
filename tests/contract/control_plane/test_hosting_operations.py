"""Operations on hosted models: StartModel, StopModel and DetectAnomalies."""

from typing import Any

import pytest

from tests.contract.control_plane.cases import (
    Case,
    case,
    cases_of,
    conflict,
    detect,
    encoded,
    png,
    quota,
    refused,
    store_model,
)
from tests.contract.control_plane.conftest import Bench
from tests.server import wait_for


@case("StartModel")
@case("StopModel")
@case("DetectAnomalies")
def host_and_ask(b: Bench) -> None:
    b.make("train")
    b.model()
    b.hosted("latest")
    described = b.api.describe_model(ProjectName=b.project, ModelVersion="1")["ModelDescription"]
    assert (described["MinInferenceUnits"], "MaxInferenceUnits" in described) == (1, False)
    picture = b.bundle.manifest.picture
    colors = {"background": "#FFFFFF", **{label.name: label.hex_color.upper() for label in b.bundle.manifest.labels}}
    assert b.parts is not None
    seen = set()
    for path in sorted((b.parts / "test").glob("*/*.png")):
        found = detect(b, path.read_bytes(), version="latest")
        assert found["Source"] == {"Type": "direct"}
        assert 0 <= found["Confidence"] <= 1
        assert found["Anomalies"][0]["Name"] == "background"
        for area in found["Anomalies"]:
            assert area["PixelAnomaly"]["Color"] == colors[area["Name"]]
        mask_matches(found, picture.width, picture.height)
        # The rules of the service's examples: a sure verdict, a defect's share of the picture, how many types there are.
        sure = found["IsAnomalous"] and found["Confidence"] >= 0.5
        shares = {a["Name"]: a["PixelAnomaly"]["TotalPercentageArea"] for a in found["Anomalies"] if a["Name"] != "background"}
        seen.add((sure, sure and any(share > 0.0005 for share in shares.values()), sure and len(shares) > 0))
    assert {(True, True, True), (False, False, False)} <= seen
    assert "Anomalies" in detect(b, encoded(picture.width, picture.height, "JPEG"), "image/jpeg")
    conflict(lambda: b.api.start_model(ProjectName=b.project, ModelVersion="1", MinInferenceUnits=1), "MODEL")
    for body, kind in ((b"not a picture", "image/png"), (png(picture.width, picture.height), "image/jpeg"), (png(64, 64), "image/png"),
                       (png(picture.width, picture.height)[:200], "image/png"), (b"x", "text/plain"),
                       (b"\x89PNG\r\n\x1a\n" + b"x" * 9_000_000, "image/png")):  # fmt: skip
        refused(lambda body=body, kind=kind: detect(b, body, kind), "ValidationException", 400)
    b.stopped("latest")
    assert "MinInferenceUnits" not in b.api.describe_model(ProjectName=b.project, ModelVersion="1")["ModelDescription"]


def mask_matches(found: dict[str, Any], width: int, height: int) -> None:
    """The mask is RGB of the picture's size, white but for the defects, and its colours cover what the areas say."""
    from io import BytesIO

    import numpy as np
    from PIL import Image

    assert len(found["AnomalyMask"]) <= 5 * 1024 * 1024
    with Image.open(BytesIO(found["AnomalyMask"])) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (width, height))
        pixels = np.asarray(image).reshape(-1, 3)
    areas = {a["PixelAnomaly"]["Color"]: a["PixelAnomaly"]["TotalPercentageArea"] for a in found["Anomalies"]}
    assert abs(sum(areas.values()) - 1) < 1e-5
    colors, counts = np.unique(pixels, axis=0, return_counts=True)
    assert {f"#{r:02X}{g:02X}{bl:02X}" for r, g, bl in colors} <= set(areas)
    for (r, g, bl), count in zip(colors, counts, strict=True):
        assert abs(areas[f"#{r:02X}{g:02X}{bl:02X}"] - count / len(pixels)) < 1e-6


@case("StartModel", "ConflictException")
def start_an_untrained_model(b: Bench) -> None:
    b.make("train")
    for version, status in enumerate(("TRAINING_FAILED", "TRAINING", "DELETING"), 1):
        store_model(b, version, status)
        conflict(lambda version=version: b.api.start_model(ProjectName=b.project, ModelVersion=str(version), MinInferenceUnits=1),
                 "MODEL")  # fmt: skip


@case("StartModel", "ValidationException")
def start_with_fewer_units_than_the_least(b: Bench) -> None:
    b.make("train")
    store_model(b, 1)
    refused(lambda: b.api.start_model(ProjectName=b.project, ModelVersion="1", MinInferenceUnits=3, MaxInferenceUnits=2),
            "ValidationException", 400)  # fmt: skip


@case("StartModel", "ServiceQuotaExceededException")
def too_many_units(b: Bench) -> None:
    b.make("train")
    store_model(b, 1)
    quota(lambda: b.api.start_model(ProjectName=b.project, ModelVersion="1", MinInferenceUnits=6), "quota_units")


def test_a_model_whose_files_are_gone_fails_to_start_and_says_so(bench: Bench) -> None:
    bench.make("train")
    store_model(bench, 1)
    bench.api.start_model(ProjectName=bench.project, ModelVersion="1", MinInferenceUnits=1)
    assert wait_for(bench.status, lambda s: s != "STARTING_HOSTING") == "HOSTING_FAILED"
    found = bench.api.describe_model(ProjectName=bench.project, ModelVersion="1")["ModelDescription"]
    assert "bundle" in found["StatusMessage"]
    assert str(bench.server.data) not in found["StatusMessage"]
    bench.api.delete_model(ProjectName=bench.project, ModelVersion="1")


@case("StopModel", "ConflictException")
def stop_a_model_that_is_not_hosted(b: Bench) -> None:
    b.make("train")
    store_model(b, 1)
    conflict(lambda: b.api.stop_model(ProjectName=b.project, ModelVersion="1"), "MODEL")


@case("DetectAnomalies", "ConflictException")
def ask_a_model_that_is_not_hosted(b: Bench) -> None:
    b.make("train")
    store_model(b, 1)
    conflict(lambda: detect(b, png(64, 64)), "MODEL")


@pytest.mark.parametrize(("operation", "error", "function"), cases_of(__name__), ids=lambda v: getattr(v, "__name__", v))
def test_case(bench: Bench, operation: str, error: str, function: Case) -> None:
    function(bench)
