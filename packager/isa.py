"""Instruction sets that we generate code for, and the targets made of them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Isa:
    """What the schedules need to know about a CPU.

    Attributes:
        name: of the variant; also the library's file name.
        mcpu: LLVM's name of the CPU whose instructions may be used. Never `native`: TVM does not resolve it.
        lanes: float32 values in a vector register.
        registers: vector registers.
        flags: /proc/cpuinfo flags that a machine must show to run this variant.
    """

    name: str
    mcpu: str
    lanes: int
    registers: int
    flags: tuple[str, ...]


AVX512 = Isa("avx512", "skylake-avx512", 16, 32, ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"))
AVX2 = Isa("avx2", "core-avx2", 8, 16, ("avx2", "fma"))


@dataclass(frozen=True, slots=True)
class Target:
    """A platform that a package is made for.

    Attributes:
        name: as given on the command line; also the folder below `compiled/`.
        triple: LLVM target triple.
        architecture: as Greengrass recipes call it.
        variants: best first; the device takes the first that its CPU can run.
    """

    name: str
    triple: str
    architecture: str
    variants: tuple[Isa, ...]


TARGETS = {"x86_64-cpu": Target("x86_64-cpu", "x86_64-linux-gnu", "amd64", (AVX512, AVX2))}
