"""Every limit on pictures, datasets, bundles and their keys, in one place. Sizes are checked against these before memory is taken.

Limits of a protocol stand in its room: those of the server's APIs in `linewatch.control_plane.limits`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what is read. Bytes unless the name says otherwise."""

    picture_side_min: int = 64
    """Pixels; the edge contract's smallest side."""
    picture_side_max: int = 4096
    """Pixels; the edge contract's largest side."""
    picture_file_bytes: int = 8 * 1024 * 1024
    """An encoded PNG or JPEG, as the cloud service had it."""
    mask_file_bytes: int = 32 * 1024 * 1024
    """An encoded PNG mask."""
    manifest_bytes: int = 1024 * 1024 * 1024
    """A dataset's JSON Lines manifest."""
    manifest_line_bytes: int = 1024 * 1024
    """One line of it."""
    unlabelled_pictures: int = 16_000
    """Pictures of a folder that are put in order for labelling; as many as a training set of the cloud service could have."""
    bundle_json_bytes: int = 4 * 1024 * 1024
    bundle_file_bytes: int = 1024 * 1024 * 1024
    bundle_total_bytes: int = 2 * 1024 * 1024 * 1024
    bundle_files: int = 1000
    bundle_name_chars: int = 200
    signature_bytes: int = 1024
    """bundle.sig."""
    key_file_bytes: int = 4096
    """A private or public key in PEM."""
    trusted_keys: int = 64
    """Public keys of a folder; more are not read."""
    measured_bytes: int = 64 * 1024
    """The record of which runtime was the fastest for a bundle."""


LIMITS = Limits()
