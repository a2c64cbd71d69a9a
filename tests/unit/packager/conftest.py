import pytest

from linewatch.anomaly_model.runtime_tvm import cpu_flags
from linewatch.packager.targets import AVX2, AVX512, Isa


@pytest.fixture(scope="module", params=[AVX512, AVX2], ids=lambda isa: isa.name)
def isa(request: pytest.FixtureRequest) -> Isa:
    """An instruction set that this machine has."""
    found: Isa = request.param
    if not cpu_flags().issuperset(found.flags):
        pytest.skip(f"this CPU has no {found.name}; its code is compiled in other tests")
    return found
