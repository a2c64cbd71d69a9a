"""`linewatch train --suggest`: which of the pictures without labels to label next."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from linewatch.commands.cli import main
from linewatch.training.suggestion.ranking import UNLIKE
from linewatch.training.suggestion.suggest import COLUMNS


@pytest.fixture(scope="module")
def pool(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parts that are like the training's, one of them under two names; a picture that is not; and a file that is none."""
    folder = tmp_path_factory.mktemp("pool")
    for path in sorted((parts / "test" / "normal").glob("*.png")):
        shutil.copy(path, folder)
    shutil.copy(next(folder.glob("*.png")), folder / "=same.png")
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    return folder


@pytest.mark.e2e
def test_a_picture_that_is_far_away_comes_up(parts: Path, pool: Path, tmp_path: Path) -> None:
    command = [
        "train",
        str(parts / "train"),
        "-o",
        str(tmp_path / "b"),
        "--side",
        "64",
        "--effort",
        "quick",
        "--encoder",
        "none",
    ]
    done = CliRunner().invoke(main, [*command, "--test-share", "0", "--accept-weak", "--suggest", str(pool), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["suggestions"]
    pictures = {s["picture"]: s for s in found["pictures"]}
    assert len(pictures) == len(list(pool.iterdir())) - 1
    assert pictures["noise.png"]["rank"] <= 3
    assert UNLIKE in pictures["noise.png"]["reason"]
    [twin] = [
        name for name in pictures if name != "=same.png" and (pool / name).read_bytes() == (pool / "=same.png").read_bytes()
    ]
    assert max(pictures[twin]["rank"], pictures["=same.png"]["rank"]) == len(pictures)
    assert [s.split(" ")[0] for s in found["skipped"]] == ["broken.jpg"]
    with (tmp_path / "b-results" / "suggestions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0]) == COLUMNS
    assert [row["picture"].removeprefix("'") for row in rows] == [s["picture"] for s in found["pictures"]]
    html = (tmp_path / "b-results" / "report.html").read_text()
    assert html.count("picture to label") == len(pictures)
    assert "1 pictures were left out" not in html
    assert "1 picture was left out as it cannot be read: broken.jpg" in html


def test_a_folder_without_pictures_is_refused_before_training(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    command = ["train", str(parts / "train"), "-o", str(tmp_path / "b"), "--suggest"]
    for name, code, said in (
        ("empty", 1, "empty has no pictures (PNG or JPEG) directly in it"),
        ("file", 2, "is a file"),
        ("nowhere", 2, "does not exist"),
    ):
        done = CliRunner().invoke(main, [*command, str(tmp_path / name)])
        assert (done.exit_code, said in done.stderr) == (code, True), done.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file"]
