"""Whole packages: for other machines, reproducible, signed, with a bill of materials."""

import hashlib
import json
from pathlib import Path

import pytest

from linewatch.anomaly_model.bundle import Bundle, open_bundle, unzip_bundle
from linewatch.anomaly_model.runtime_tvm import host_target
from linewatch.anomaly_model.signature import create_key
from linewatch.packager.elf import find_cubins, read_facts
from linewatch.packager.package import Package, PackageOptions, package, package_each
from linewatch.packager.sbom import SBOM_NAME
from linewatch.packager.targets import find_target
from linewatch.packager.tune import TuningError
from linewatch.packager.verification import verify_parity
from tests.toolchain import require_arm64

BY_MODEL = PackageOptions(tuning="model", rounds=0)
DESCRIBED = PackageOptions(
    name="model-x", version="4.5.6", description="Line 7: cookies", tags={"plant": "a"}, location="s3://b/p/", tuning="model", rounds=0,
    key=create_key(),
)  # fmt: skip


@pytest.fixture(scope="module")
def for_avx2(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """A package with everything that a user may say of it."""
    return package(bundle, find_target("x86_64-cpu", {"mcpu": "core-avx2"}), tmp_path_factory.mktemp("avx2"), DESCRIBED)


def digest(package: Package) -> str:
    return hashlib.sha256(package.component.artifacts[0].path.read_bytes()).hexdigest()


def test_for_arm64_with_proof_under_emulation(bundle: Bundle, tmp_path: Path) -> None:
    """And for this machine, in the same component."""
    require_arm64()
    key = create_key()
    targets = [find_target("aarch64-cpu", {"mcpu": "cortex-a78"}), find_target("x86_64-cpu", {"mcpu": "core-avx2"})]
    done = package_each(bundle, targets, tmp_path / "out", PackageOptions(tuning="model", rounds=0, key=key))
    variant, here = done.variants
    assert variant.parity is not None
    assert variant.parity.ran_on == "qemu-aarch64"
    assert variant.parity.changed_answers == variant.parity.resize_differences == 0
    assert variant.parity.score_difference <= 1e-4
    assert variant.timing is None
    assert (here.isa.name, here.parity is not None) == ("avx2", True)
    recipe = json.loads(done.component.recipe.read_bytes())
    assert [m["Platform"]["architecture"] for m in recipe["Manifests"]] == ["aarch64", "amd64"]
    made = [unzip_bundle(a.path, tmp_path / a.architecture) for a in done.component.artifacts]
    assert [b.targets() for b in made] == [["aarch64-cpu"], ["x86_64-cpu"]]
    assert {open_bundle(b.folder, trusted=[key.public_key()]).manifest.component for b in made} == {"model-parts"}
    assert done.bundle.targets() == [host_target()], "what lies unpacked is for this machine"
    facts = read_facts(made[0].read("compiled/aarch64-cpu/neon-cortex-a78.so"))
    assert (facts.machine, facts.glibc <= (2, 27)) == ("aarch64", True)
    assert read_facts(made[0].read("compiled/aarch64-cpu/libtvm_runtime.so")).machine == "aarch64"
    described = json.loads(made[0].read("compiled/aarch64-cpu/target.json"))
    assert described["variants"] == [{"library": "neon-cortex-a78.so", "flags": ["asimd", "atomics", "asimddp"]}]
    assert described["mcpu"] == {"neon-cortex-a78": "cortex-a78"}


def test_for_xavier_with_machine_code_for_its_gpu(bundle: Bundle, tmp_path: Path) -> None:
    require_arm64()
    done = package(bundle, find_target("jetson_xavier"), tmp_path, BY_MODEL)
    assert done.cubins == find_cubins(done.bundle.read("compiled/aarch64-cuda/cuda.so"))
    assert set(done.cubins) == {"sm_72"}
    assert done.bundle.targets() == ["aarch64-cpu", "aarch64-cuda"]
    described = json.loads(done.bundle.read("compiled/aarch64-cuda/target.json"))
    assert (described["gpu"], described["cuda"], described["parity"]) == ("sm_72", "11.4", [])
    assert all(v.parity is not None for v in done.variants)
    libraries = [n for n in done.bundle.manifest.files if n.startswith("compiled/aarch64-cpu/neon")]
    assert libraries == ["compiled/aarch64-cpu/neon-carmel.so", "compiled/aarch64-cpu/neon.so"]
    assert done.bundle.manifest.files[libraries[0]] != done.bundle.manifest.files[libraries[1]]


def test_the_same_input_gives_the_same_bytes(bundle: Bundle, tmp_path: Path) -> None:
    options = PackageOptions(tuning="model", rounds=0, key=create_key(), tags={"line": "7"})
    first = package(bundle, find_target("x86_64-cpu"), tmp_path / "a", options)
    second = package(bundle, find_target("x86_64-cpu"), tmp_path / "b" / "c", options)
    assert digest(first) == digest(second)
    assert first.component.recipe.read_bytes() == second.component.recipe.read_bytes()
    assert open_bundle(second.bundle.folder, trusted=[options.key.public_key()])  # type: ignore[union-attr]


def test_packaging_a_package_gives_it_again(for_avx2: Package, tmp_path: Path) -> None:
    again = package(for_avx2.bundle, find_target("x86_64-cpu", {"mcpu": "core-avx2"}), tmp_path, DESCRIBED)
    assert digest(again) == digest(for_avx2)
    assert again.component.recipe.read_bytes() == for_avx2.component.recipe.read_bytes()


def test_what_is_in_it_is_listed(packaged: Package) -> None:
    bill = json.loads(packaged.bundle.read(SBOM_NAME))
    assert bill["bomFormat"] == "CycloneDX"
    files = {c["name"]: c for c in bill["components"] if c["type"] == "file"}
    listed = set(packaged.bundle.manifest.files) - {SBOM_NAME}
    assert set(files) == listed
    for name in listed:
        assert files[name]["hashes"][0]["content"] == packaged.bundle.manifest.files[name].sha256
    tools = {c["name"]: c for c in bill["components"] if c["type"] == "library"}
    assert tools["apache-tvm"]["licenses"] == [{"license": {"id": "Apache-2.0"}}]


def test_description_tags_and_location(for_avx2: Package) -> None:
    done = for_avx2
    recipe = json.loads(done.component.recipe.read_bytes())
    facts = json.loads((done.component.recipe.parents[1] / "component.json").read_bytes())
    assert recipe["ComponentDescription"] == "Line 7: cookies"
    assert recipe["Manifests"][0]["Artifacts"][0]["Uri"] == f"s3://b/p/{done.component.artifacts[0].path.name}"
    assert facts["tags"] == {"plant": "a"}
    assert facts["artifacts"][0]["sha256"] == digest(done)
    assert [v.isa.name for v in done.variants] == ["avx2"]


def test_schedules_of_a_log_are_used_and_kept(bundle: Bundle, packaged: Package, tmp_path: Path) -> None:
    described = json.loads(packaged.bundle.read("compiled/x86_64-cpu/target.json"))
    log = tmp_path / "log.json"
    log.write_text(json.dumps(described["schedules"]["avx2"]))
    done = package(bundle, find_target("x86_64-cpu", {"mcpu": "core-avx2"}), tmp_path / "out", PackageOptions(tuning=str(log), rounds=0))
    again = json.loads(done.bundle.read("compiled/x86_64-cpu/target.json"))
    assert again["schedules"]["avx2"] == described["schedules"]["avx2"]
    log.write_text("{")
    with pytest.raises(TuningError):
        package(bundle, find_target("x86_64-cpu"), tmp_path / "none", PackageOptions(tuning=str(log)))
    assert not (tmp_path / "none").exists()


def test_code_that_does_not_run_is_not_packaged(bundle: Bundle) -> None:
    from linewatch.anomaly_model.parity import ParityError
    from linewatch.packager.targets import AVX2

    with pytest.raises(ParityError, match="variant avx2 could not be checked"):
        verify_parity(bundle, b"not a library", "x86_64", AVX2)
