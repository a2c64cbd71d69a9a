"""Whether this machine can compile and run code for ARM64; in CI a missing tool is a failure, not a skip."""

import os
import shutil

import pytest

_TOOLS = ("aarch64-linux-gnu-gcc", "qemu-aarch64-static")


def require_arm64() -> None:
    """Skip a test where the cross compiler or the emulator is missing."""
    missing = [tool for tool in _TOOLS if not shutil.which(tool)]
    if not missing:
        return
    message = f"{', '.join(missing)} missing: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross libstdc++6-arm64-cross qemu-user-static"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
