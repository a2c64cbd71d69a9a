"""The platforms that packages are made for, and what compiler options mean on each. Pure.

`find_target` reads what people write (a target's name and compiler options, as on the command line and in
StartModelPackagingJob) into a `Target`, or says what is wrong with it and what would be right.
"""

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from linewatch.anomaly_model.errors import LinewatchError


class TargetError(LinewatchError):
    """No such target, or options that it does not have, or that contradict each other."""


@dataclass(frozen=True, slots=True)
class Isa:
    """What the schedules need to know about a CPU, and what a machine must have to run the code.

    Attributes:
        name: of the variant; also the library's file name.
        mcpu: LLVM's name of the CPU whose instructions may be used. Never `native`: TVM does not resolve it.
        lanes: float32 values in a vector register.
        registers: vector registers.
        flags: /proc/cpuinfo flags that a machine must show to run this variant.
        mattr: LLVM features beyond the CPU's own.
    """

    name: str
    mcpu: str
    lanes: int
    registers: int
    flags: tuple[str, ...]
    mattr: tuple[str, ...] = ()


AVX512 = Isa("avx512", "skylake-avx512", 16, 32, ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"))
AVX2 = Isa("avx2", "core-avx2", 8, 16, ("avx2", "fma"))
NEON = Isa("neon", "cortex-a72", 4, 32, ("asimd",))


@dataclass(frozen=True, slots=True)
class Gpu:
    """An NVIDIA GPU that code is generated for.

    Attributes:
        arch: such as sm_72.
        cuda: (major, minor) of the CUDA on the device; chooses the compiler.
        tensorrt: version on the device, such as 8.2.1; kept for ONNX Runtime there, our own code does not use it.
    """

    arch: str
    cuda: tuple[int, int]
    tensorrt: str


ARCHITECTURES = {"x86_64": "amd64", "aarch64": "aarch64"}
"""Machine types, and what Greengrass recipes call them."""


@dataclass(frozen=True, slots=True)
class Target:
    """A platform that a package is made for.

    Attributes:
        name: as given on the command line; also the folder below `compiled/`.
        machine: as `uname -m` calls it.
        variants: best first; the device takes the first that its CPU can run.
        gpu: what GPU code is made beside them; None for none.
        glibc: the oldest C library that the device may have.
    """

    name: str
    machine: str
    variants: tuple[Isa, ...]
    gpu: Gpu | None = None
    glibc: tuple[int, int] = (2, 27)

    @property
    def architecture(self) -> str:
        """As Greengrass recipes call it."""
        return ARCHITECTURES[self.machine]

    @property
    def triple(self) -> str:
        """LLVM's name of the platform."""
        return f"{self.machine}-linux-gnu"

    @property
    def cpu(self) -> str:
        """The folder below `compiled/` that CPU code goes to: the same for all targets of a machine type."""
        return f"{self.machine}-cpu"


def _cpu(base: Isa, mcpu: str, *flags: str) -> Isa:
    """Another CPU with the same vectors, and the flags that its code needs beyond the base's."""
    return replace(base, name=f"{base.name}-{mcpu}", mcpu=mcpu, flags=(*base.flags, *flags))


_ARM82 = ("atomics", "asimddp")
CPUS: dict[str, dict[str, Isa]] = {
    machine: {isa.mcpu: isa for isa in cpus}
    for machine, cpus in {
        "x86_64": (
            AVX2, _cpu(AVX2, "haswell"), AVX512, _cpu(AVX512, "cascadelake", "avx512_vnni"),
            _cpu(AVX512, "icelake-server", "avx512_vnni", "avx512_vbmi2"),
            _cpu(AVX512, "sapphirerapids", "avx512_vnni", "avx512_bf16", "avx512_fp16"), _cpu(AVX2, "znver3"),
            _cpu(AVX512, "znver4", "avx512_vnni", "avx512_bf16"),
        ),
        "aarch64": (
            _cpu(NEON, "cortex-a53"), _cpu(NEON, "cortex-a57"), NEON, _cpu(NEON, "carmel", "atomics", "fphp", "asimdhp"),
            _cpu(NEON, "cortex-a76", *_ARM82), _cpu(NEON, "cortex-a78", *_ARM82), _cpu(NEON, "cortex-a78ae", *_ARM82),
            _cpu(NEON, "neoverse-n1", *_ARM82),
        ),
    }.items()
}  # fmt: skip
"""mcpu by machine type: what the schedules use of it, and what the device must show."""

FEATURES: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {"+avx2": ("avx2",), "+fma": ("fma",), "+bmi2": ("bmi2",), "+f16c": ("f16c",)},
    # +vfpv4 is a feature of 32-bit ARM that the service's documents name; every ARMv8 core has what it stands for.
    "aarch64": {"+neon": (), "+vfpv4": (), "+fp-armv8": (), "+crc": ("crc32",), "+lse": ("atomics",),
                "+dotprod": ("asimddp",), "+fullfp16": ("asimdhp",)},
}
"""mattr by machine type, and the cpuinfo flags that each needs."""
_NAMES_ONLY = {"+vfpv4"}

GPUS: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "sm_53": ((10, 0), (12, 9)), "sm_62": ((10, 0), (12, 9)), "sm_70": ((10, 0), (12, 9)), "sm_72": ((10, 0), (12, 9)),
    "sm_75": ((10, 0), (99, 0)), "sm_80": ((11, 0), (99, 0)), "sm_86": ((11, 1), (99, 0)), "sm_87": ((11, 4), (99, 0)),
    "sm_89": ((11, 8), (99, 0)), "sm_90": ((11, 8), (99, 0)),
}  # fmt: skip
"""gpu-code, and the first and last CUDA that knows it."""
OLDEST_TENSORRT = (7, 1, 3)

_XAVIER = Target("jetson_xavier", "aarch64", (CPUS["aarch64"]["carmel"], NEON), Gpu("sm_72", (11, 4), "8.5.2"))
_ORIN = Target("jetson_orin", "aarch64", (CPUS["aarch64"]["cortex-a78ae"], NEON), Gpu("sm_87", (11, 4), "8.5.2"))
TARGETS = {
    target.name: target
    for target in (
        Target("x86_64-cpu", "x86_64", (AVX512, AVX2)),
        Target("aarch64-cpu", "aarch64", (NEON,)),
        Target("x86_64-nvidia", "x86_64", (AVX512, AVX2), Gpu("sm_75", (12, 4), "8.6.1")),
        Target("aarch64-nvidia", "aarch64", (NEON,), Gpu("sm_87", (11, 4), "8.5.2")),
        _XAVIER,
        _ORIN,
    )
}
_DEVICES = ("jetson_xavier", "jetson_orin")
_OPTIONS = ("gpu-code", "trt-ver", "cuda-ver", "mcpu", "mattr")
GPU_OPTIONS = ("gpu-code", "trt-ver", "cuda-ver")

Options = Mapping[str, str | list[str]]


def find_target(name: str, options: Options | None = None) -> Target:
    """A target by name, changed by compiler options.

    Raises:
        TargetError: what was given, and the valid choices.
    """
    if name not in TARGETS:
        raise TargetError(f"unknown target {name!r}; known targets: {', '.join(sorted(TARGETS))}")
    target, options = TARGETS[name], options or {}
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        raise TargetError(f"unknown compiler option {', '.join(map(repr, unknown))}; known options: {', '.join(_OPTIONS)}")
    if options and name in _DEVICES:
        raise TargetError(f"{name} is a whole device and takes no compiler options; name a platform such as {target.machine}-nvidia instead")
    target = _with_gpu(target, options)
    return _with_cpu(target, options)


def parse_options(text: str) -> dict[str, str | list[str]]:
    """CompilerOptions: a JSON object; Python's single quotes, which the early documents showed, are read too.

    Raises:
        TargetError: not an object of texts and lists of texts.
    """
    options: object
    try:
        options = json.loads(text)
    except (ValueError, RecursionError):
        try:
            options = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            options = None
    if not isinstance(options, dict):
        raise TargetError(f'the compiler options {text[:200]!r} are not a JSON object, such as {{"mcpu": "core-avx2"}}')
    for name, value in options.items():
        texts = value if isinstance(value, list) else [value]
        if not isinstance(name, str) or not all(isinstance(v, str) for v in texts):
            raise TargetError(f"the compiler option {name!r} is {str(value)[:80]!r}; expected text, or a list of texts for mattr")
    return options


def _with_gpu(target: Target, options: Options) -> Target:
    given = [n for n in GPU_OPTIONS if n in options]
    if target.gpu is None:
        if given:
            raise TargetError(f"{', '.join(given)}: {target.name} has no GPU; take {target.machine}-nvidia (Accelerator NVIDIA)")
        return target
    if not given:
        return target
    missing = [n for n in GPU_OPTIONS if n not in options]
    if missing:
        raise TargetError(
            f"{', '.join(missing)} missing; NVIDIA needs all of {', '.join(GPU_OPTIONS)}, such as gpu-code sm_75, trt-ver 8.6.1, "
            "cuda-ver 12.4"
        )
    arch, cuda, tensorrt = (_text(options, n) for n in ("gpu-code", "cuda-ver", "trt-ver"))
    if arch not in GPUS:
        raise TargetError(f"unknown gpu-code {arch!r}; known: {', '.join(GPUS)}")
    version = _numbers("cuda-ver", cuda, 2)
    first, last = GPUS[arch]
    if not first <= version <= last:
        until = f" to {last[0]}.{last[1]}" if last[0] < 99 else " on"
        raise TargetError(f"CUDA {cuda} has no compiler for {arch}, which CUDA {first[0]}.{first[1]}{until} knows; change cuda-ver or gpu-code")
    if _numbers("trt-ver", tensorrt, 3) < OLDEST_TENSORRT:
        raise TargetError(f"trt-ver {tensorrt} is too old; expected {'.'.join(map(str, OLDEST_TENSORRT))} or newer")
    return replace(target, gpu=Gpu(arch, (version[0], version[1]), tensorrt))


def _with_cpu(target: Target, options: Options) -> Target:
    if "mcpu" not in options and "mattr" not in options:
        return target
    cpus, features = CPUS[target.machine], FEATURES[target.machine]
    variants = target.variants
    if "mcpu" in options:
        mcpu = _text(options, "mcpu")
        if mcpu not in cpus:
            elsewhere = next((m for m, names in CPUS.items() if mcpu in names), None)
            hint = f" ({mcpu} is a CPU of {elsewhere})" if elsewhere else ""
            raise TargetError(f"unknown mcpu {mcpu!r} for {target.name}{hint}; known: {', '.join(cpus)}")
        variants = (cpus[mcpu],)
    mattr = options.get("mattr", [])
    if not isinstance(mattr, list):
        raise TargetError(f'mattr is {mattr!r}; expected a list such as ["+neon"]')
    for feature in mattr:
        if feature not in features:
            raise TargetError(f"unknown mattr {feature!r} for {target.name}; known: {', '.join(features)}")
    flags = tuple(flag for feature in mattr for flag in features[feature])
    attributes = tuple(feature for feature in mattr if feature not in _NAMES_ONLY)
    return replace(target, variants=tuple(
        replace(v, flags=tuple(dict.fromkeys((*v.flags, *flags))), mattr=attributes) for v in variants))  # fmt: skip


def _text(options: Options, name: str) -> str:
    value = options[name]
    if not isinstance(value, str):
        raise TargetError(f"{name} is {value!r}; expected text")
    return value


def _numbers(name: str, text: str, count: int) -> tuple[int, ...]:
    parts = text.split(".")
    if len(parts) != count or not all(p.isdecimal() and len(p) <= 4 for p in parts):
        raise TargetError(f"{name} is {text!r}; expected {count} numbers such as {'8.2.1' if count == 3 else '11.4'}")
    return tuple(int(p) for p in parts)
