"""Targets and compiler options: what is accepted, what it means, and what is said of the rest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linewatch.packager.targets import CPUS, GPUS, TARGETS, TargetError, find_target, parse_options

GPU = {"gpu-code": "sm_72", "trt-ver": "8.2.1", "cuda-ver": "10.2"}


def test_every_cpu_profile_can_be_asked_for() -> None:
    for machine, cpus in CPUS.items():
        for mcpu, isa in cpus.items():
            target = find_target(f"{machine}-cpu", {"mcpu": mcpu})
            assert [v.mcpu for v in target.variants] == [mcpu] == [isa.mcpu]
            assert target.variants[0].flags


def test_known_good_options_of_the_service() -> None:
    assert find_target("aarch64-nvidia", dict(GPU)).gpu.arch == "sm_72"  # type: ignore[union-attr]
    for options in ({**GPU, "trt-ver": "7.1.3"}, {"gpu-code": "sm_75", "trt-ver": "7.1.3", "cuda-ver": "10.2"},
                    {"gpu-code": "sm_80", "trt-ver": "8.2.0", "cuda-ver": "11.2"}):  # fmt: skip
        target = find_target("x86_64-nvidia", dict(options))
        assert target.gpu is not None
        assert (target.gpu.arch, target.gpu.tensorrt) == (options["gpu-code"], options["trt-ver"])
    assert find_target("x86_64-cpu", {"mcpu": "core-avx2"}).variants[0].name == "avx2"


def test_what_is_taken_where_nothing_is_asked_for() -> None:
    """The service's core-avx2, with a faster build beside it for processors that have AVX-512; any ARMv8."""
    assert [v.mcpu for v in find_target("x86_64-cpu").variants] == ["skylake-avx512", "core-avx2"]
    [arm] = find_target("aarch64-cpu").variants
    assert arm.flags == ("asimd",)


def test_features_add_flags_and_reach_the_compiler() -> None:
    [variant] = find_target("aarch64-cpu", {"mattr": ["+neon", "+vfpv4", "+dotprod"]}).variants
    assert variant.mattr == ("+neon", "+dotprod")  # +vfpv4 is a name of 32-bit ARM for what every ARMv8 core has
    assert "asimddp" in variant.flags


@pytest.mark.parametrize(("name", "options", "message"), [
    ("toaster", {}, "known targets: aarch64-cpu, .*x86_64-nvidia"),
    ("x86_64-cpu", {"speed": "fast"}, "unknown compiler option 'speed'; known options: gpu-code, trt-ver, cuda-ver, mcpu, mattr"),
    ("jetson_xavier", {"mcpu": "carmel"}, "takes no compiler options"),
    ("x86_64-cpu", {"gpu-code": "sm_75"}, "has no GPU; take x86_64-nvidia"),
    ("x86_64-nvidia", {"gpu-code": "sm_75", "cuda-ver": "12.4"}, "trt-ver missing"),
    ("x86_64-nvidia", {**GPU, "gpu-code": "sm_31"}, "known: sm_53, .*sm_90"),
    ("x86_64-nvidia", {**GPU, "cuda-ver": "13.0"}, "no compiler for sm_72, which CUDA 10.0 to 12.9 knows"),
    ("x86_64-nvidia", {**GPU, "gpu-code": "sm_86"}, "no compiler for sm_86"),
    ("x86_64-nvidia", {**GPU, "cuda-ver": "11"}, "expected 2 numbers such as 11.4"),
    ("x86_64-nvidia", {**GPU, "trt-ver": "7.0.0"}, "expected 7.1.3 or newer"),
    ("x86_64-nvidia", {**GPU, "trt-ver": "8"}, "expected 3 numbers"),
    ("x86_64-cpu", {"mcpu": "carmel"}, r"carmel is a CPU of aarch64.*known: core-avx2"),
    ("x86_64-cpu", {"mcpu": "native"}, "unknown mcpu 'native'"),
    ("x86_64-cpu", {"mattr": ["+neon"]}, r"unknown mattr '\+neon' for x86_64-cpu; known: \+avx2"),
    ("x86_64-cpu", {"mattr": "+avx2"}, "expected a list"),
    ("x86_64-cpu", {"mattr": ["-avx2"]}, "unknown mattr '-avx2'"),
])  # fmt: skip
def test_what_is_refused_says_what_is_right(name: str, options: dict[str, str | list[str]], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        find_target(name, options)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        options = parse_options(text)
        find_target("x86_64-nvidia", options)
    except TargetError:
        pass


def test_both_quotes() -> None:
    assert parse_options("{'mcpu': 'core-avx2', 'mattr': ['+fma']}") == parse_options('{"mcpu": "core-avx2", "mattr": ["+fma"]}')


def test_tables_agree() -> None:
    names = [isa.name for cpus in CPUS.values() for isa in cpus.values()]
    assert len(set(names)) == len(names), "two variants would be one file"
    for target in TARGETS.values():
        assert all(v.mcpu in CPUS[target.machine] for v in target.variants)
        assert target.gpu is None or GPUS[target.gpu.arch][0] <= target.gpu.cuda <= GPUS[target.gpu.arch][1]
