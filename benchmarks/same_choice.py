"""Whether a busy machine changes what the trainer chooses: the same training again and again beside processes that only spin.

    python -m benchmarks.same_choice                        # 20 trainings beside 8 busy processes
    python -m benchmarks.same_choice --runs 5 --busy 0      # on an idle machine

Prints each training's choice; exit code 1 when two differ in the choice, the graph, the threshold or any candidate's figures,
or when one was chosen at chance where a better one was there.
"""

import argparse
import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from linewatch.anomaly_model.progress import no_progress
from linewatch.commands.drawn.part_set import PartSet
from linewatch.commands.drawn.writing import write_set
from linewatch.training.data.dataset import Dataset
from linewatch.training.data.reading import read_dataset
from linewatch.training.options import TrainingOptions
from linewatch.training.selection.choice import WORTH
from linewatch.training.train import train


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Processes that spin as long as the block runs."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def main() -> int:
    """Parse, train, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--busy", type=int, default=8)
    parser.add_argument("--pictures", type=int, default=12, help="a class")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--net-steps", type=int, default=1)
    arguments = parser.parse_args()
    seen: list[object] = []
    worst = 0.0
    options = TrainingOptions(side=arguments.side, net_steps=arguments.net_steps, test_share=0)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as beside:
        write_set(Path(folder) / "parts", PartSet(arguments.pictures, arguments.pictures, 0, 0, seed=3), no_progress)
        full = read_dataset(Path(folder) / "parts" / "train")
        # Without masks: a cell classifier takes most of the time, and there is as much to choose among.
        data = Dataset(tuple(dataclasses.replace(s, mask=None) for s in full.samples), (), 0, "parts")
        beside.enter_context(busy(arguments.busy))
        for run in range(arguments.runs):
            begun = time.monotonic()
            trained = train(data, Path(folder) / "bundle", options)
            choice, manifest = trained.choice, trained.bundle.manifest
            assert choice is not None
            seen.append((choice.chosen, choice.candidates, manifest.files, manifest.decision))
            worst = max(worst, choice.candidates[0].roc_auc - choice.chosen.roc_auc)
            print(f"{run + 1:3}: {choice.chosen.name}, ROC AUC {choice.chosen.roc_auc:.4f} of at most {choice.candidates[0].roc_auc:.4f}, "
                  f"{choice.chosen.milliseconds:.2f} ms, graph {manifest.files['model.onnx'].sha256[:12]}, "
                  f"{time.monotonic() - begun:.0f} s", flush=True)  # fmt: skip
    same = sum(facts == seen[0] for facts in seen)
    print(f"{same} of {len(seen)} trainings alike beside {arguments.busy} busy processes; the choice was at most {worst:.4f} below the best")
    return 0 if same == len(seen) and worst <= WORTH else 1


if __name__ == "__main__":
    sys.exit(main())
