"""Do compiled models give ONNX Runtime's answers? 200 drawn pictures, every CPU profile that this machine can run or emulate.

    python -m benchmarks.parity --json benchmarks/parity.json

Also how long packaging takes for this machine and for ARM64, and the most memory it needs. Bars: no changed verdict, score
difference <= 1e-3 of its range; this machine <= 60 s, ARM64 <= 120 s with its proof; <= 3 GB. Exit code 1 when one is missed.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.processes import this_machine
from linewatch.anomaly_model.bundle import Bundle, open_bundle
from linewatch.anomaly_model.picture import to_model_input
from linewatch.anomaly_model.runtime_tvm import host_target
from linewatch.commands.drawn.part_set import PartSet
from linewatch.commands.drawn.writing import write_set
from linewatch.packager.targets import CPUS

PICTURES = 200
TOLERANCE, SECONDS_HERE, SECONDS_ARM, MEMORY_GB = 1e-3, 60, 120, 3
PROFILES = {"x86_64": ("core-avx2", "haswell", "skylake-avx512", "cascadelake", "icelake-server", "sapphirerapids", "znver3", "znver4"),
            "aarch64": ("cortex-a72", "cortex-a78", "neoverse-n1", "carmel")}  # fmt: skip


def make_model(folder: Path) -> Bundle:
    """A segmentation model with a U-Net, trained on drawn parts."""
    from linewatch.training.data.reading import read_dataset
    from linewatch.training.options import TrainingOptions
    from linewatch.training.train import train

    write_set(folder / "parts", PartSet(30, 30, 0, 0))
    return train(read_dataset(folder / "parts" / "train"), folder / "bundle", TrainingOptions(name="bench")).bundle


def packaging(bundle: Path, target: str) -> dict[str, object]:
    """Package in a process of its own, with nothing measured or kept from before."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-P", "-m", "linewatch", "package", str(bundle), "--target", target, "-o", f"{folder}/out", "--json"]
        kept = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "linewatch" / "runtime"
        (Path(folder) / "linewatch").mkdir()
        if kept.is_dir():  # TVM's runtime for other machines is fetched once and not part of packaging
            (Path(folder) / "linewatch" / "runtime").symlink_to(kept)
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "XDG_CACHE_HOME": folder})
        _, status, usage = os.wait4(process.pid, 0)
        return {"target": target, "seconds": round(time.monotonic() - started, 1), "ok": status == 0,
                "peak_gb": round(usage.ru_maxrss / 1024**2, 2)}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, help="a bundle of yours; default: one that is trained now")
    parser.add_argument("--pictures", type=int, default=PICTURES)
    arguments = parser.parse_args()
    from linewatch.packager.compile import compile_model
    from linewatch.packager.schedule import choose
    from linewatch.packager.verification import execution_host, verify_parity

    with tempfile.TemporaryDirectory() as folder:
        bundle = open_bundle(arguments.bundle) if arguments.bundle else make_model(Path(folder))
        timed = [packaging(bundle.folder, host_target()), packaging(bundle.folder, "aarch64-cpu"), packaging(bundle.folder, "jetson_xavier")]
        for row in timed:
            print(f"packaging for {row['target']}: {row['seconds']} s, {row['peak_gb']} GB, {'done' if row['ok'] else 'FAILED'}", flush=True)
        half = arguments.pictures // 2
        parts = PartSet(half, arguments.pictures - half, 0, 0, seed=77)
        pictures = [to_model_input(part.picture, bundle.manifest.input) for part in parts]
        rows = []
        for machine, names in PROFILES.items():
            for mcpu in names:
                isa = CPUS[machine][mcpu]
                ran_on = execution_host(machine, isa)
                if ran_on is None:
                    print(f"{mcpu:16} cannot be run here", flush=True)
                    continue
                started = time.monotonic()
                library = compile_model(bundle.read("model.onnx"), machine, isa, choose)
                parity = verify_parity(bundle, library, machine, isa, pictures)
                rows.append({"mcpu": mcpu, "machine": machine, "ran_on": ran_on, "pictures": parity.pictures, "changed": parity.changed_answers,
                             "score": parity.score_difference, "map": parity.map_difference, "labels": parity.labels_difference,
                             "mask": parity.mask_difference, "resize": parity.resize_differences})  # fmt: skip
                print(f"{mcpu:16} {ran_on:14} {parity.changed_answers} of {parity.pictures} verdicts changed, score {parity.score_difference:.1e}, "
                      f"map {parity.map_difference:.1e}, labels {parity.labels_difference:.1e}, mask pixels {parity.mask_difference:.1e} "
                      f"({time.monotonic() - started:.0f} s)", flush=True)  # fmt: skip
    result = {"machine": this_machine(), "packaging": timed, "profiles": rows,
              "children_peak_gb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024**2, 2)}  # fmt: skip
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    held = all(r["changed"] == 0 and r["score"] <= TOLERANCE and r["resize"] == 0 for r in rows)
    here, arm, _ = timed
    held &= bool(here["ok"] and arm["ok"] and here["seconds"] <= SECONDS_HERE and arm["seconds"] <= SECONDS_ARM)
    held &= result["children_peak_gb"] <= MEMORY_GB
    print("all bars held" if held else "a bar was missed")
    return 0 if held and np.isfinite([r["score"] for r in rows]).all() else 1


if __name__ == "__main__":
    sys.exit(main())
