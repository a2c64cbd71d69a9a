import csv
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from linewatch.anomaly_model.bundle import Bundle, write_bundle
from linewatch.anomaly_model.errors import DatasetError, NotFiniteError
from linewatch.anomaly_model.limits import Limits
from linewatch.anomaly_model.manifest import (
    MODEL_NAME,
    Decision,
    InputSpec,
    Manifest,
    ModelIdentity,
    PictureSize,
    ScoreRange,
)
from linewatch.training.data.dataset import Sample
from linewatch.training.data.reading import read_unlabelled
from linewatch.training.families.encoder import NONE
from linewatch.training.graph.writer import GraphWriter
from linewatch.training.report.write import MOST_SUGGESTED, write_report
from linewatch.training.suggestion.ranking import LIKE_EARLIER, NEAR_THRESHOLD, UNLIKE
from linewatch.training.suggestion.suggest import COLUMNS, FILE_NAME, Suggestion, Suggestions, suggest, write_suggestions

SIDE = 64
THRESHOLD = 100.0


def make_bundle(folder: Path, factor: float = 1.0) -> Bundle:
    """A model whose score is the mean brightness, 0 to 255, times a factor."""
    g = GraphWriter(SIDE, SIDE)
    planar = g.node("Transpose", g.node("Cast", "picture", to=1), perm=[0, 3, 1, 2])
    grey = g.scale(g.conv(planar, np.full((1, 3, 1, 1), 1 / 3, np.float32)), factor)
    score = g.node("Flatten", g.node("GlobalAveragePool", grey), axis=0, name="score")
    model = g.build([score, g.scale(grey, 1 / 255, name="map")])
    manifest = Manifest(
        format=1, model=ModelIdentity(arn="a", name="m", version="1"), input=InputSpec(height=SIDE, width=SIDE),
        picture=PictureSize(height=SIDE, width=SIDE), labels=[], decision=Decision(threshold=THRESHOLD, slope=0.2),
        score_range=ScoreRange(low=0, high=255), training={}, evaluation={}, tools={}, files={},
    )  # fmt: skip
    return write_bundle(folder, manifest, {MODEL_NAME: model})


def save(path: Path, brightness: float, seed: int, contrast: float = 4) -> Sample:
    """A picture of noise around a brightness."""
    noise = np.random.default_rng(seed).normal(size=(SIDE, SIDE, 3))
    noise -= noise.mean()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((brightness + contrast * noise).clip(0, 255).round().astype(np.uint8)).save(path, "PNG")
    return Sample(path.name, path, None)


@pytest.fixture
def labelled(tmp_path: Path) -> list[Sample]:
    """Dark pictures and bright ones, with a gap between."""
    return [save(tmp_path / "labelled" / f"{i}.png", 70 + i + 20 * (i % 2), i) for i in range(24)]


def test_the_unclear_and_the_unlike_come_first(tmp_path: Path, labelled: list[Sample]) -> None:
    pool = tmp_path / "pool"
    for i in range(6):
        save(pool / f"clear{i}.png", 72 + i, 100 + i)
    save(pool / "threshold.png", THRESHOLD, 200)
    save(pool / "threshold again.png", THRESHOLD + 0.1, 200)  # a few pixels are a grey level brighter
    save(pool / "strange.png", 40, 300, contrast=60)
    (pool / "broken.png").write_bytes(b"no picture")
    gone = Sample("gone.png", tmp_path / "gone.png", False)
    told: list[str] = []
    found = suggest(
        make_bundle(tmp_path / "b"),
        read_unlabelled(pool),
        [*labelled, gone],
        NONE,
        lambda what, _done, _total: told.append(what),
    )
    names = [s.sample.name for s in found.pictures]
    assert set(names[:2]) == {"strange.png", "threshold.png"} or set(names[:2]) == {"strange.png", "threshold again.png"}
    by_name = {s.sample.name: s for s in found.pictures}
    assert UNLIKE in by_name["strange.png"].reason
    assert by_name["strange.png"].uncertainty < 0.1
    assert NEAR_THRESHOLD in by_name["threshold.png"].reason
    assert by_name["threshold.png"].probability == pytest.approx(0.5, abs=0.03)
    again = max(("threshold.png", "threshold again.png"), key=names.index)
    assert LIKE_EARLIER in by_name[again].reason
    assert [s.rank for s in found.pictures] == list(range(1, 10))
    assert found.skipped == ("broken.png is not a PNG or JPEG picture: its 10 bytes begin with b'no pictu'",)
    assert found.described_by == "bank"
    assert list(dict.fromkeys(told)) == [
        "looking at labelled pictures again",
        "looking at unlabelled pictures",
        "choosing what to label",
    ]


def test_pictures_of_another_size_are_brought_to_the_input(tmp_path: Path, labelled: list[Sample]) -> None:
    path = tmp_path / "pool" / "large.png"
    save(path, 200, 1)
    with Image.open(path) as image:
        image.resize((150, 90)).save(path)
    [one] = suggest(make_bundle(tmp_path / "b"), read_unlabelled(path.parent), labelled, NONE).pictures
    assert one.probability > 0.99


def test_what_has_gone_while_training_ran_is_told(tmp_path: Path, labelled: list[Sample]) -> None:
    samples = [save(tmp_path / "pool" / f"{i}.png", 90, i) for i in range(3)]
    for sample in samples:
        sample.path.unlink()
    found = suggest(make_bundle(tmp_path / "b"), samples, labelled, NONE)
    assert found.pictures == ()
    assert [s.split(" ")[0] for s in found.skipped] == ["0.png", "1.png", "2.png"]


def test_a_model_that_answers_with_infinity_is_refused(tmp_path: Path, labelled: list[Sample]) -> None:
    with pytest.raises(NotFiniteError):
        suggest(make_bundle(tmp_path / "b", factor=np.inf), labelled, (), NONE)


def suggestion(rank: int, name: str, path: Path) -> Suggestion:
    return Suggestion(rank, Sample(name, path, None), 0.512345, 0.97531, 1.23456, NEAR_THRESHOLD)


def test_the_file_is_safe_to_open_as_a_table(tmp_path: Path) -> None:
    names = [
        "a.png",
        '=HYPERLINK("http://x";"y").png',
        "+1;2,3.png",
        "-x.png",
        "@y.png",
        "\tz.png",
        'quote" and ümlaut.png',
        "x=1.png",
    ]
    found = Suggestions(tuple(suggestion(i + 1, name, tmp_path) for i, name in enumerate(names)), (), "bank")
    path = write_suggestions(tmp_path / "results", found)
    assert [p.name for p in path.parent.iterdir()] == [FILE_NAME]
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    assert tuple(rows[0]) == COLUMNS
    assert rows[1] == ["1", "a.png", "0.5123", "0.9753", "1.2346", NEAR_THRESHOLD]
    assert [row[1] for row in rows[1:]] == [f"'{n}" if n[0] in "=+-@\t" else n for n in names]
    assert '"x=1.png"' in path.read_text()


def test_a_folder_is_looked_at_before_anything_slow(tmp_path: Path) -> None:
    (tmp_path / "pool" / "deeper").mkdir(parents=True)
    save(tmp_path / "pool" / "deeper" / "a.png", 9, 9)
    (tmp_path / "pool" / "text.txt").write_text("x")
    with pytest.raises(DatasetError, match=r"pool has no pictures \(PNG or JPEG\) directly in it"):
        read_unlabelled(tmp_path / "pool")
    for name in ("b.png", "c.jpg"):
        (tmp_path / "pool" / name).write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"none of the 2 pictures in .* can be read\. The first: b\.png is not"):
        read_unlabelled(tmp_path / "pool")
    save(tmp_path / "pool" / "z.png", 9, 9)
    assert [s.name for s in read_unlabelled(tmp_path / "pool")] == ["b.png", "c.jpg", "z.png"]
    with pytest.raises(DatasetError, match="has 3 pictures; at most 2"):
        read_unlabelled(tmp_path / "pool", Limits(unlabelled_pictures=2))


def test_a_name_that_is_no_unicode_can_be_written(tmp_path: Path) -> None:
    save(tmp_path / "pool" / os.fsdecode(b"caf\xe9.png"), 9, 9)
    [sample] = read_unlabelled(tmp_path / "pool")
    assert sample.name == "caf\ufffd.png"
    assert (
        "caf\ufffd"
        in write_suggestions(tmp_path, Suggestions((suggestion(1, sample.name, sample.path),), (), "bank")).read_text()
    )


TOLD = {
    "pictures": 24, "normal": 12, "anomaly": 12, "with_mask": 0, "unlabelled": 0, "seconds": 1.0, "regime": "drawn", "warnings": [],
    "why": "it is here", "side_why": "small", "encoder": "", "backbone": None, "divisions": {}, "suspected_labels": [],
    "near_duplicates": [], "test_duplicates": [],
}  # fmt: skip
"""What a report tells of every training."""


def test_the_report_shows_the_first_twelve(tmp_path: Path) -> None:
    manifest = msgspec.structs.replace(make_bundle(tmp_path / "b").manifest, training=TOLD)
    samples = [save(tmp_path / "pool" / f"<{i}>.png", 40 * (i % 5), i) for i in range(MOST_SUGGESTED + 3)]
    samples[3].path.unlink()
    found = Suggestions(
        tuple(suggestion(i + 1, s.name, s.path) for i, s in enumerate(samples)), ("a is broken", "b", "c", "d"), "bank"
    )
    write_report(tmp_path / "report.html", manifest, None, None, "here", suggestions=found)
    html = (tmp_path / "report.html").read_text()
    assert f"Which pictures to label next (the first {MOST_SUGGESTED} of {MOST_SUGGESTED + 3})" in html
    assert html.count("picture to label") == MOST_SUGGESTED - 1, "one has gone"
    assert "4 pictures were left out as they cannot be read: a is broken; b; c; and more." in html
    assert "12. &lt;11&gt;.png" in html
    assert NEAR_THRESHOLD in html
    write_report(tmp_path / "without.html", manifest, None, None, "here")
    assert "to label next" not in (tmp_path / "without.html").read_text()
