"""What `linewatch client install` tells people to configure, and what the guide does."""

import json
from pathlib import Path

from click.testing import CliRunner

from linewatch.commands.cli import main

GUIDE = Path(__file__).parents[3] / "docs" / "how-to" / "keep-your-scripts.md"


def test_every_service_that_scripts_call_gets_an_address(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["client", "install", "--folder", str(tmp_path), "--endpoint", "http://s:1", "--json"])
    lines = json.loads(done.stdout)["configuration"]
    for service in ("LOOKOUTVISION", "REKOGNITION", "S3"):
        assert f"export AWS_ENDPOINT_URL_{service}=http://s:1" in lines
        assert f"export AWS_ENDPOINT_URL_{service}=" in GUIDE.read_text()
