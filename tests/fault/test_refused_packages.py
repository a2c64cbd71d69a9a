"""Packages that must not run: each is refused with its own message before anything of it is executed, and the version
that serves goes on serving."""

import json
import platform
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tvm_ffi

from linewatch.anomaly_model.bundle import open_bundle, write_bundle
from linewatch.anomaly_model.errors import BundleError, HashMismatchError, PlatformError, SignatureError
from linewatch.anomaly_model.runtime_choice import open_runtime
from linewatch.anomaly_model.signature import SIGNATURE_NAME, create_key, public_pem, sign
from linewatch.edge_agent.client import AgentCallError, AgentClient
from linewatch.packager.package import Package
from tests.contract.test_agent_calls import running_agent_with

pytestmark = pytest.mark.fault
BLANK = np.zeros((240, 320, 3), np.uint8)
KEY, OTHER = create_key(), create_key()
TARGET = f"{platform.machine()}-cpu"
Change = Callable[[Path], None]


def rewritten(folder: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """Another package: its files changed, hashes and signature right."""
    bundle = open_bundle(folder)
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    change(files)
    write_bundle(folder, bundle.manifest, files, KEY)


def described(folder: Path, **values: object) -> None:
    """Another target.json."""

    def change(files: dict[str, bytes]) -> None:
        table = json.loads(files[f"compiled/{TARGET}/target.json"])
        files[f"compiled/{TARGET}/target.json"] = json.dumps({**table, **values}).encode()

    rewritten(folder, change)


def other_platform(folder: Path) -> None:
    def change(files: dict[str, bytes]) -> None:
        for name in [n for n in files if n.startswith(f"compiled/{TARGET}/")]:
            files[name.replace(TARGET, "riscv64-cpu")] = files.pop(name)

    rewritten(folder, change)


def foreign_library(folder: Path) -> None:
    """target.json says the right thing, but the library's own header does not."""

    def change(files: dict[str, bytes]) -> None:
        for name in [n for n in files if n.endswith(".so")]:
            files[name] = files[name][:18] + b"\xf3\x00" + files[name][20:]  # RISC-V

    rewritten(folder, change)


def flipped(name: str) -> Change:
    def change(folder: Path) -> None:
        path = next(p for p in sorted(folder.rglob("*")) if p.name == name)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0x10
        path.write_bytes(data)

    return change


CASES: dict[str, tuple[Change, type[BundleError], str]] = {
    "a flipped byte in the library": (flipped("avx2.so"), HashMismatchError, r"avx2\.so"),
    "a flipped byte in TVM's runtime": (flipped("libtvm_runtime.so"), HashMismatchError, r"libtvm_runtime\.so"),
    "a flipped byte in the graph": (flipped("model.onnx"), HashMismatchError, r"model\.onnx"),
    "a flipped byte in the bill": (flipped("sbom.cdx.json"), HashMismatchError, r"sbom\.cdx\.json"),
    "a flipped byte in bundle.json": (flipped("bundle.json"), SignatureError, "is not what the key"),
    "no signature": (lambda f: (f / SIGNATURE_NAME).unlink(), SignatureError, "is not signed"),
    "another key's signature": (
        lambda f: (f / SIGNATURE_NAME).write_bytes(sign((f / "bundle.json").read_bytes(), OTHER)), SignatureError, "not trusted"),
    "a flipped byte in the signature": (flipped(SIGNATURE_NAME), SignatureError, "signature|cannot be read|not trusted"),
    "another platform": (other_platform, PlatformError, "is made for riscv64-cpu; this machine is"),
    "another architecture": (lambda f: described(f, machine="riscv64"), PlatformError, "is for riscv64; this machine is"),
    "a library of another architecture": (foreign_library, PlatformError, "is no shared library for"),
    "a newer C library": (lambda f: described(f, glibc="99.1"), PlatformError, r"needs glibc 99\.1; this machine has"),
    "another CPU": (
        lambda f: described(f, variants=[{"library": "avx512.so", "flags": ["avx512f", "a-flag-of-tomorrow"]}]),
        PlatformError, "no compiled variant runs on this CPU"),
}  # fmt: skip


@pytest.fixture
def signed(packaged: Package, tmp_path: Path) -> Path:
    bundle = packaged.bundle
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    return write_bundle(tmp_path / "models" / "bad", bundle.manifest, files, KEY).folder


@pytest.mark.parametrize("case", CASES)
def test_refused_before_anything_is_executed(case: str, signed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def executed(*_: object) -> None:
        raise AssertionError("code was loaded")

    monkeypatch.setattr(tvm_ffi, "load_module", executed)
    monkeypatch.setattr("linewatch.anomaly_model.runtime_tvm._load_libraries", executed)
    change, error, message = CASES[case]
    change(signed)
    with pytest.raises(error, match=message):
        open_runtime(open_bundle(signed, trusted=[KEY.public_key()]))


@pytest.fixture(scope="module")
def site(packaged: Package, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, AgentClient]]:
    """An agent that trusts one key and serves version 1 of a component."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "keys").mkdir()
    (folder / "keys" / "site.pub").write_bytes(public_pem(KEY.public_key()))
    bundle = packaged.bundle
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    write_bundle(folder / "versions" / "1", bundle.manifest, files, KEY)
    models = folder / "models"
    models.mkdir()
    register(folder, "1")
    with running_agent_with(models, LINEWATCH_AGENT_TRUSTED_KEYS=str(folder / "keys")) as address, AgentClient(address) as client:
        client.wait_until_listening(30)
        client.start("line")
        yield folder, client


def register(folder: Path, version: str) -> None:
    entry = {"component": "line", "version": f"{version}.0.0", "folder": str(folder / "versions" / version)}
    (folder / "models" / "line.json").write_text(json.dumps(entry))


@pytest.mark.parametrize("case", CASES)
def test_the_version_that_serves_goes_on(case: str, site: tuple[Path, AgentClient]) -> None:
    folder, client = site
    change, _, message = CASES[case]
    bad = folder / "models" / "next"
    shutil.copytree(folder / "versions" / "1", bad)
    try:
        change(bad)
        name = next(m.model_component for m in client.models() if m.model_component != "line")
        with pytest.raises(AgentCallError, match=f"(?s){message}"):
            client.start(name)
        assert client.detect(BLANK, "line")[0].confidence > 0
    finally:
        shutil.rmtree(bad)


def test_a_refused_new_version_can_be_taken_back(site: tuple[Path, AgentClient]) -> None:
    folder, client = site
    shutil.copytree(folder / "versions" / "1", folder / "versions" / "2")
    (folder / "versions" / "2" / SIGNATURE_NAME).unlink()
    register(folder, "2")
    assert client.detect(BLANK, "line")[0].confidence > 0
    client.stop("line")
    with pytest.raises(AgentCallError, match="is not signed"):
        client.start("line")
    register(folder, "1")
    client.start("line")
    assert client.detect(BLANK, "line")[0].confidence > 0


def test_code_that_answers_wrongly_does_not_serve(site: tuple[Path, AgentClient]) -> None:
    """Everything is signed and in its place, but the golden pictures say that this is another model's code."""
    import onnx
    from onnx import numpy_helper

    from linewatch.packager.compile import compile_model
    from linewatch.packager.schedule import choose
    from linewatch.packager.targets import AVX2

    folder, client = site
    bad = folder / "models" / "next"
    shutil.copytree(folder / "versions" / "1", bad)

    def change(files: dict[str, bytes]) -> None:
        graph = onnx.load_from_string(files["model.onnx"])
        bias = next(c for c in graph.graph.initializer if list(c.dims) == [1])
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 3, bias.name))
        for name in [n for n in files if n.endswith(("avx2.so", "avx512.so"))]:
            files[name] = compile_model(graph.SerializeToString(), platform.machine(), AVX2, choose)

    try:
        rewritten(bad, change)
        name = next(m.model_component for m in client.models() if m.model_component != "line")
        with pytest.raises(AgentCallError, match=r"does not give the right answers: score differs by"):
            client.start(name)
        assert client.detect(BLANK, "line")[0].confidence > 0
    finally:
        shutil.rmtree(bad)
