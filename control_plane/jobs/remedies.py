"""What an API user can do about an error: the calls, where the command line has flags."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from linewatch.anomaly_model.errors import Remedy

_OTHER_PICTURES = (
    "store other pictures under the same keys, or take the pictures out by sending their lines without a label with "
    "UpdateDatasetEntries (unlabelled pictures are not trained on); then call CreateModel again"
)
CALLS: Mapping[Remedy, str] = MappingProxyType({
    Remedy.LEAVE_OUT: _OTHER_PICTURES,
    Remedy.RESIZE: _OTHER_PICTURES,
    Remedy.NAME_ROOT: "store the pictures under the addresses that their lines name",
    Remedy.HOLD_OUT_NONE: "add pictures with UpdateDatasetEntries, or make a test dataset with CreateDataset",
    Remedy.FREE_SPACE: "tell whoever runs the server that its disk is full",
    Remedy.OTHER_OUTPUT: "",
    Remedy.OTHER_VERSION: "name another ComponentVersion",
})  # fmt: skip
"""Each remedy as a call; empty where an API user can do nothing."""


def advise(error: str, remedies: Iterable[Remedy]) -> str:
    """An error with what can be done about it."""
    advice = dict.fromkeys(CALLS[remedy] for remedy in remedies if CALLS[remedy])
    return ". ".join([error, *(text[0].upper() + text[1:] for text in advice)])
