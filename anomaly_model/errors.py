"""The errors that several modules raise or catch, and what can be done about them.

An error that one module alone raises stands there: SettingsError, KeyFileError, ParityError, GroundTruthError.

Each message says what was found, what was expected and, where it is not obvious, what to do next. The interfaces (gRPC,
command line, the HTTP API) map these classes to status codes in one table of their own. What can be done is a flag in one
interface and a call in another: such advice is a `Remedy`, and each interface has its own words for it.
"""

from collections.abc import Sequence
from enum import StrEnum


class Remedy(StrEnum):
    """What can be done about an error, where interfaces say it differently."""

    LEAVE_OUT = "leave out"
    """Go on without the pictures that cannot be read."""
    RESIZE = "resize"
    """Bring pictures of several sizes to one."""
    NAME_ROOT = "name root"
    """Say where the pictures of a manifest lie."""
    HOLD_OUT_NONE = "hold out none"
    """Evaluate on no pictures, or on a set of its own."""
    FREE_SPACE = "free space"
    """Free space on the disk, or take another one."""
    OTHER_OUTPUT = "other output"
    """Take another folder for what is made."""
    OTHER_VERSION = "other version"
    """Give the component another version."""


def shorten(names: Sequence[str], most: int = 3, between: str = ", ") -> str:
    """The first few of many, and how many more there are."""
    more = f"{between}and {len(names) - most} more" if len(names) > most else ""
    return between.join(names[:most]) + more


class LinewatchError(Exception):
    """Something that the person or program that called can put right.

    Attributes:
        remedies: what can be done, beyond what the message says.
    """

    def __init__(self, message: str = "", *remedies: Remedy) -> None:
        super().__init__(message)
        self.remedies = remedies


class PictureError(LinewatchError):
    """A picture cannot be used: unreadable, of a forbidden size, or with the wrong number of bytes."""


class NotFiniteError(LinewatchError):
    """A model gave NaN or infinity: no verdict can be made of it."""


class DatasetError(LinewatchError):
    """A dataset cannot be used for what was asked."""


class RuntimeUnavailableError(LinewatchError):
    """The runtime that was asked for is not installed, or the bundle has no code for this machine."""


class BundleError(LinewatchError):
    """A bundle was refused. Each rule that a bundle can break has a subclass."""


class MalformedBundleError(BundleError):
    """bundle.json is missing, is not JSON, or does not have the fields of its format version."""


class UnknownVersionError(BundleError):
    """bundle.json names a format version that this program does not read."""


class UnsafePathError(BundleError):
    """A file name would leave the bundle's folder or is otherwise not allowed."""


class LinkError(BundleError):
    """The bundle holds a symbolic link or another thing that is not a plain file."""


class OversizeError(BundleError):
    """A file, all files together, or their number is over the limit."""


class MissingFileError(BundleError):
    """bundle.json lists a file that is not there."""


class UnlistedFileError(BundleError):
    """A file is there that bundle.json does not list."""


class HashMismatchError(BundleError):
    """A file's content is not what bundle.json says."""


class SignatureError(BundleError):
    """A bundle is not signed by a key that is trusted."""


class PlatformError(BundleError):
    """A bundle's code is for another kind of machine."""
