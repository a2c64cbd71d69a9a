"""Every limit on the input of the server's APIs, in one place. Sizes are checked against these before memory is taken.

What the service model states (lengths and ranges of parameters) is checked by `linewatch.control_plane.wire.requests`; what
an operator may choose is a setting; limits on pictures and manifests themselves are in `linewatch.anomaly_model.limits`.
"""

from linewatch.anomaly_model.limits import LIMITS

MIB = 1 << 20

# --- HTTP

HEADER_BYTES = 64 << 10
"""Headers of a request; likewise the framing and the trailers of its body."""
BODY_BYTES_PER_S = 16 << 10
"""That a body brings at least, on average and after some patience."""
CONTENT_LENGTH = 1 << 62
"""The largest that is believed to be a number of bytes."""
DRAINED_BYTES = 64 * MIB
"""Of a body that is read on behalf of a client that does not look at an error before it has sent all."""

# --- Amazon Lookout for Vision and Rekognition

CALL_BYTES = MIB
"""Body of a call."""
UPDATE_BYTES = 15 * MIB
"""Body of UpdateDatasetEntries: 10 MiB of lines are 13,981,014 characters in base64, and JSON around them."""
PICTURE_BYTES = 2 * LIMITS.picture_file_bytes
"""Body of DetectAnomalies, so that a picture which is somewhat too large gets the operation's own answer."""
ENTRY_CHARS = 8192
"""JSON of a dataset's entry, as the service model bounds it."""
ENTRY_LINE_BYTES = 4 * ENTRY_CHARS
"""The same as it is read: a character has up to four bytes."""

# --- S3

KEY_BYTES = 1024
"""Key of an object; S3's own bound."""
NAME_BYTES = 255
"""Part of a key between two slashes: what a file system allows."""
DOCUMENT_BYTES = 2 * MIB
"""An XML document."""
OBJECT_BYTES = 5 << 30
"""Body of one PUT; S3's own bound, larger objects come in parts."""
PARTS = 10_000
"""Parts of an object; S3's own bound."""
DELETED_KEYS = 1000
"""Keys of one DeleteObjects."""
CHUNK_BYTES = 16 * MIB
"""One signed chunk; it is held in memory until its signature is checked. Clients send 64 KiB to 1 MiB."""
CHUNK_LINE_BYTES = 4096
"""First line of a chunk."""
TRAILER_BYTES = 8192
"""What follows the last chunk."""

# --- backups

BACKUP_FILES = 1_000_000
BACKUP_BYTES = 1 << 40
