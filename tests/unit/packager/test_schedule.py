"""Choices of schedules: valid ones only, remembered by shape, and logs of other programs do no harm."""

import json
import subprocess
from pathlib import Path

import msgspec
import pytest

from benchmarks.nets import Net
from linewatch.anomaly_model.files import replace_file
from linewatch.anomaly_model.runtime_tvm import cpu_flags
from linewatch.packager import child
from linewatch.packager import tune as tuning
from linewatch.packager.plan import make_plan
from linewatch.packager.schedule import Tile, Winograd, candidates, choose, cost
from linewatch.packager.targets import AVX2, AVX512, NEON, Isa
from linewatch.packager.tune import TuningError, chooser, chosen_layers, read_log, signature, tune


@pytest.fixture(scope="module")
def model() -> bytes:
    net = Net(24)
    x = net.op("Relu", net.conv("x", 3, 32, 3, 2))
    x = net.op("Relu", net.conv(x, 32, 40, 3))
    return net.build(net.conv(x, 40, 40, 3), net.conv(x, 40, 7, 1))


@pytest.mark.parametrize("isa", [AVX512, AVX2, NEON], ids=lambda isa: isa.name)
def test_candidates_can_be_computed(model: bytes, isa: Isa) -> None:
    kinds = set()
    for step in chosen_layers(model, isa).values():
        for choice in candidates(isa, step):
            kinds.add(type(choice))
            assert choice.pixels * choice.blocks + choice.blocks + 1 <= isa.registers
            assert (step.output.stored // isa.lanes) % choice.blocks == 0
            assert cost(isa, step, choice) > 0
            if isinstance(choice, Winograd):
                assert choice.tiles % choice.pixels == 0
        assert choose(isa, step) in candidates(isa, step)
    assert kinds == {Tile, Winograd}


def test_few_multiplications_are_worth_it_where_channels_are_many() -> None:
    net = Net(56)
    step = make_plan(net.build(net.conv(net.conv("x", 3, 64, 1), 64, 64, 3)), 16).steps[-1]
    assert isinstance(choose(AVX512, step), Winograd)
    net = Net(56)
    step = make_plan(net.build(net.conv(net.conv("x", 3, 4, 1), 4, 16, 3)), 16).steps[-1]
    assert isinstance(choose(AVX512, step), Tile)


def test_a_choice_that_does_not_fit_is_not_taken(model: bytes) -> None:
    step = next(iter(chosen_layers(model, AVX512).values()))
    wrong = chooser({signature(step): Tile(1000, 1000)})
    assert wrong(AVX512, step) == choose(AVX512, step)
    other = candidates(AVX512, step)[-1]
    assert chooser({signature(step): other})(AVX512, step) == other


@pytest.mark.slow
@pytest.mark.skipif(not cpu_flags().issuperset(AVX2.flags), reason="this CPU has no AVX2")
def test_what_was_measured_is_not_measured_again(model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = tune(model, AVX2)
    assert set(first) == set(chosen_layers(model, AVX2))
    [log] = (tmp_path / "linewatch" / "tuning").iterdir()
    assert {name: msgspec.convert(value, Tile | Winograd) for name, value in json.loads(log.read_text()).items()} == first

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(child.subprocess, "run", refuse)
    assert tune(model, AVX2) == first


@pytest.mark.slow
@pytest.mark.skipif(not cpu_flags().issuperset(AVX2.flags), reason="this CPU has no AVX2")
def test_another_graph_does_not_change_what_was_measured(model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the first graph would be packaged with other bytes from then on."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    layers = chosen_layers(model, AVX2)
    shared, step = next(iter(layers.items()))
    unusual = candidates(AVX2, step)[-1]
    replace_file(tuning.log_path(AVX2), tuning.dump_log({shared: unusual}))
    found = tune(model, AVX2)
    assert found[shared] == unusual
    assert set(found) == set(layers)


def test_a_measurement_that_dies_is_an_error(model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    dead = subprocess.CompletedProcess([], -11, b"", b"Illegal instruction")
    monkeypatch.setattr(child.subprocess, "run", lambda *_, **__: dead)
    with pytest.raises(TuningError, match=r"exit code -11; Illegal instruction\. Package with --no-tune"):
        tune(model, AVX2)


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"a": {"type": "direct", "pixels": "x"}}'])
def test_other_files_are_no_logs(content: str, tmp_path: Path) -> None:
    (tmp_path / "log.json").write_text(content)
    with pytest.raises(TuningError, match="is not a tuning log"):
        read_log(tmp_path / "log.json")
