"""What a web page may not do to a server that asks for no signature. Pure.

A browser on this machine reaches the loopback address for any page that it shows. It says whose page it is: in Host, the
name by which the page found us (another one than a loopback name is DNS rebinding); in Origin and Sec-Fetch-Site, where the
page came from. Programs send neither of the last two.
"""

import re
from collections.abc import Mapping
from ipaddress import ip_address

from linewatch.control_plane.errors import AccessDeniedError

_HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9.-]{1,253})(:[0-9]{1,5})?", re.IGNORECASE)


def check_origin(scheme: str, headers: Mapping[str, str]) -> None:
    """Refuse what another site's page sends, or a page that reached us by a name that is not of this machine.

    Args:
        scheme: http or https.
        headers: by lower-case name.

    Raises:
        AccessDeniedError: the Host header is no name of this machine, or a page of another origin or site sent the request.
    """
    host = headers.get("host", "")
    if not _is_loopback(host):
        raise AccessDeniedError(
            f"the Host header is {host[:100]!r}. An anonymous server answers to localhost, 127.0.0.1 and [::1] only; for other "
            "names start it without --anonymous, and make access keys with: linewatch credentials create"
        )
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    if (origin is not None and origin.lower() != f"{scheme}://{host}".lower()) or site not in ("none", "same-origin"):
        raise AccessDeniedError(
            f"a web page of {(origin or site)[:100]!r} sent this request. An anonymous server answers programs of this machine, not pages"
        )


def _is_loopback(host: str) -> bool:
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = match[1].lower()
    if name == "localhost":
        return True
    try:
        return ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
