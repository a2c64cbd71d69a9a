"""What the two nuclei of Greengrass make of a lifecycle script, written from their behaviour and not from our checker."""

import re
from collections.abc import Mapping


class LiteError(Exception):
    """Nucleus lite gives the deployment up."""


def lite_script(script: str, *, root: str, component: str, version: str, configuration: Mapping[str, str]) -> str:
    """Every `{` opens a variable that goes on to the next `}`; folders end in a slash; texts are written for double quotes."""
    folders = {
        "kernel:rootPath": root, "iot:thingName": "thing", "work:path": f"{root}/work/{component}/",
        "artifacts:path": f"{root}/packages/artifacts/{component}/{version}/",
        "artifacts:decompressedPath": f"{root}/packages/artifacts-unarchived/{component}/{version}/",
    }  # fmt: skip
    written, rest = "", script
    while True:
        before, brace, after = rest.partition("{")
        written += before
        if not brace:
            return written
        name, end, rest = after.partition("}")
        if not end:
            raise LiteError("Recipe escape is not terminated")
        if name in folders:
            written += folders[name]
        elif name.startswith("configuration:/") and name.removeprefix("configuration:/") in configuration:
            written += re.sub(r'(["\\$`])', r"\\\1", configuration[name.removeprefix("configuration:/")])
        else:
            raise LiteError(f"Unhandled variable substitution: {name}")


def java_script(script: str, *, root: str, component: str, version: str, configuration: Mapping[str, str]) -> str:
    """What looks like a variable and is known is replaced, all else stays."""
    folders = {
        "kernel:rootPath": root, "iot:thingName": "thing", "work:path": f"{root}/work/{component}",
        "artifacts:path": f"{root}/packages/artifacts/{component}/{version}",
        "artifacts:decompressedPath": f"{root}/packages/artifacts-unarchived/{component}/{version}",
        **{f"configuration:/{key}": value for key, value in configuration.items()},
    }  # fmt: skip
    return re.sub(r"\{([^{}]+)\}", lambda m: folders.get(m[1], m[0]), script)
