import pytest

from linewatch.training.families.encoder import Encoder, load_encoder


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """The one that the `train` extra brings."""
    found, _ = load_encoder("lite0")
    assert found is not None
    return found
