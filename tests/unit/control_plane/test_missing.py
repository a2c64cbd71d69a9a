"""Looking for the pictures that lines name."""

from pathlib import Path

from linewatch.control_plane.entries import parse_entry
from linewatch.control_plane.jobs.missing import describe_missing
from linewatch.control_plane.objects import UnavailableError
from linewatch.control_plane.objects.directory import DirectoryObjects

LABEL = b'"l": 1, "l-metadata": {"class-name": "%s", "type": "groundtruth/image-classification", "human-annotated": "yes"}'
MASK = (b'"m-ref": "s3://b/m.png", "m-ref-metadata": {"type": "groundtruth/semantic-segmentation", "human-annotated": "yes", '
        b'"internal-color-map": {"0": {"class-name": "x", "hex-color": "#000001"}}}')  # fmt: skip


def test_the_first_few_are_named_with_their_lines(tmp_path: Path) -> None:
    objects = DirectoryObjects(tmp_path)
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics" / "here.png").touch()
    named = {"s3://pics/here.png": "line 1", **{f"s3://pics/{i}.png": f"line {i}" for i in range(2, 9)}, "s3://nowhere/k": ""}
    said = describe_missing(objects, named)
    assert said.startswith("8 of 9 labelled pictures and masks are not there: s3://pics/2.png (line 2), s3://pics/3.png (line 3), ")
    assert "s3://pics/6.png (line 6), and 3 more" in said
    assert str(tmp_path) not in said
    assert describe_missing(objects, {"s3://pics/here.png": "line 1"}) == ""
    assert describe_missing(objects, {}) == ""


class Silent(DirectoryObjects):
    def size(self, bucket: str, key: str, version: str | None = None) -> int:
        raise UnavailableError("S3 does not answer")


def test_a_store_that_does_not_answer_is_no_fault_of_the_lines(tmp_path: Path) -> None:
    assert "could not be found out" in describe_missing(Silent(tmp_path), {f"s3://pics/{i}.png": "" for i in range(100)})


def test_what_a_training_reads() -> None:
    source = b'{"source-ref": "s3://b/k.png"'
    assert parse_entry(source + b"}").read_in_training == ()
    assert parse_entry(b",".join([source, LABEL % b"normal", MASK]) + b"}").read_in_training == ("s3://b/k.png",)
    assert parse_entry(b",".join([source, LABEL % b"anomaly", MASK]) + b"}").read_in_training == ("s3://b/k.png", "s3://b/m.png")
