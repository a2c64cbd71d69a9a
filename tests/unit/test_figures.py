"""Figures in the documents are those of the runs that benchmarks/*.json keep."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.accuracy import Fold, plant_table, table

ROOT = Path(__file__).parents[2]


def text(name: str) -> str:
    return (ROOT / name).read_text()


def run(name: str) -> Any:
    return json.loads(text(f"benchmarks/{name}.json"))


def performance(title: str) -> str:
    """A section of the page on performance, on one line."""
    page = text("docs/reference/performance.md")
    return " ".join(re.split(r"^## ", page, flags=re.MULTILINE)[[s.split("\n")[0] for s in page.split("\n## ")].index(title)].split())


@pytest.mark.parametrize("kept", ["accuracy", "accuracy_encoder"])
def test_accuracy(kept: str) -> None:
    page, printed = text("docs/accuracy.md"), table(msgspec.convert(run(kept)["folds"], list[Fold]))
    missing = [line for line in printed.splitlines() if line not in page]
    assert missing == []


def test_compiled_code() -> None:
    found, section = run("compile"), performance("Compiled code")
    for one, two in zip(found["rows"][::2], found["rows"][1::2], strict=True):
        assert one["net"] == two["net"]
        ratios = [f"{one[k]:.2f} / {two[k]:.2f}" for k in ("over_onnxruntime", "over_openvino_f32", "over_openvino")]
        times = [f"{one[k]:.1f} / {two[k]:.1f}" for k in ("tvm_ms", "onnxruntime_ms")]
        assert f"| {one['net']} | {times[0]} | {times[1]} | **{ratios[0]}** | {ratios[1]} | {ratios[2]} |" in section
    means = [f"{found[f'geomean_over_{name}']:.2f}" for name in ("onnxruntime", "openvino_f32", "openvino")]
    assert f"**{means[0]}** (bar 0.95) | {means[1]} | {means[2]} |" in section
    assert f"the worst ratio to ONNX Runtime is {found['worst_over_onnxruntime']:.2f} " in section
    assert f"{means[0]} of ONNX Runtime's time over eight nets" in " ".join(text("README.md").split())


def test_parity() -> None:
    found, section = run("parity"), performance("Compiled code")
    emulated = sum(row["ran_on"].startswith("qemu") for row in found["profiles"])
    count = len(found["profiles"])
    assert f"for each of {count} CPU profiles, {count - emulated} run here and {emulated} under QEMU" in section
    assert all(row["changed"] == row["mask"] == 0 and row["pictures"] == 200 for row in found["profiles"])
    assert f"largest score difference {max(row['score'] for row in found['profiles']):.1e} of its".replace("e-0", "e-") in section
    here, arm, xavier = (f"{row['seconds']:.0f} s" for row in found["packaging"])
    assert f"{here} for x86-64" in section
    assert f"{arm} for ARM64" in section
    assert f"{xavier} for jetson_xavier" in section
    assert f"at most {max(row['peak_gb'] for row in found['packaging']):.1f} GB" in section


def test_half_an_hour() -> None:
    found, section = run("soak"), performance("Half an hour at 90 % of capacity")
    assert f"90 % of {found['capacity_per_s']:.0f} calls a second" in section
    assert f"| failed of {found['calls']:,} calls, with {found['swaps']} swaps | {found['failed']} | 0 |" in section
    assert "| memory of agent and worker, MiB | {} | {} |".format(*found["memory_mib"]) in section
    assert "| p99, ms | {:.1f} | {:.1f} |".format(*found["p99_ms"]) in section


def test_the_server() -> None:
    found, section = run("server"), performance("The server")
    one, entries, update = found["describe_project"], found["list_entries"], found["update_1000_lines"]
    for row in (one, entries):
        assert f"p50 {row['p50_ms']:.1f} ms, p99 {row['p99_ms']:.1f} ms; " in section
    assert f"{one['calls_per_s']} a second over one connection, {one['calls_per_s_4_connections']} over four" in section
    tenths = [f"{entries[f'{which}_tenth_p50_ms']:.1f} ms" for which in ("first", "last")]
    assert f"first tenth of the pages {tenths[0]}, last tenth {tenths[1]}" in section
    assert f"answered after {update['answer_ms']:.0f} ms, UPDATE_COMPLETE after {update['complete_ms']:.0f} ms" in section
    for name, row in found["detect_anomalies"].items():
        what = rf"\| DetectAnomalies, {name.removeprefix('clients_')} clients?, {row['units']} units? \| "
        line = what + r"p50 ([\d.]+) ms, p99 ([\d.]+) ms; (\d+) a second, ([\d.]+) of"
        quoted = re.search(line, section)
        assert quoted, line
        measured = (row["p50_ms"], row["p99_ms"], row["calls_per_s"], row["ratio_to_bare"])
        assert [float(n) for n in quoted.groups()] == pytest.approx(measured, rel=0.01, abs=0.06), name
    assert "{before_mib} MiB, {after_mib} MiB".format(**found["memory"]) in section
    assert f"{found['memory']['calls']:,} calls" in section


def test_figures_name_the_processor_they_came_from() -> None:
    sections = [performance(title) for title in ("Compiled code", "Compiling and training", "The server")]
    for section in (text("docs/accuracy.md"), text("README.md"), *sections):
        assert re.search(r"x86-64\s+with AVX|AMD EPYC", section), section[:80]


def test_sizing() -> None:
    page, agent, server = " ".join(text("docs/reference/sizing.md").split()), run("agent"), run("server")
    for workers in ("1", "2"):
        rate = agent["throughput"][f"workers_{workers}"]["agent_per_s"]
        assert f"| `concurrency = {workers}` | {rate:.0f} | {round(rate * 3.6, -1):.0f},000 |" in page
    times = agent["back_to_back_p50_ms"]
    assert f"{times['detect_shared_memory_cpp']:.1f} ms at p50 and {agent['back_to_back_p99_ms']['detect_shared_memory_cpp']:.1f} ms at p99" in page
    assert f"{times['detect_bytes_python']:.1f} ms by bytes in Python" in page
    assert f"with four clients, p99 is {run('soak')['p99_ms'][0]:.1f} ms" in page
    assert f"| agent with a model | {agent['agent_with_a_model_mib']:.0f} |" in page
    assert f"| each worker | {agent['model_rss_mb']:.0f} |" in page
    for clients, units in ((1, 1), (4, 2)):
        rate = server["detect_anomalies"][f"clients_{clients}"]["calls_per_s"]
        assert re.search(rf"{clients} clients?, {units} (inference )?units?[^|]* \| {rate:.0f} a second", page)
    assert f"| DescribeProject | {server['describe_project']['calls_per_s']} a second |" in page
    assert f"no model hosted | {server['memory']['before_mib']:.0f} MiB |" in page
    here, _, xavier = run("parity")["packaging"]
    assert f"nothing measured before | {here['seconds']:.0f} s | {here['peak_gb']:.1f} GB |" in page
    assert f"packaging for jetson_xavier | {xavier['seconds']:.0f} s | {xavier['peak_gb']:.1f} GB |" in page
    readme = " ".join(text("README.md").split())
    assert (
        f"takes {times['detect_shared_memory_cpp']:.1f} ms through shared memory, {times['detect_bytes_python']:.1f} ms by bytes, "
        f"{times['preprocessing_compiled_and_tvm']:.1f} ms of it resize and model"
    ) in readme
    assert f"agent and one model take {agent['agent_with_a_model_mib'] + agent['model_rss_mb']:.0f} MiB" in readme


def test_a_plants_figures() -> None:
    folds = [fold for fold in msgspec.convert(run("accuracy_encoder")["folds"], list[Fold]) if fold.set == "pcb"]
    page, readme = text("docs/accuracy.md"), text("README.md")
    for line in plant_table(folds).splitlines():
        assert line in page
    outcomes = [f.outcomes for f in folds if f.outcomes is not None]
    bad, good = sum(o.found + o.escapes for o in outcomes), sum(o.passed + o.false_alarms for o in outcomes)
    assert f"| **{1000 * sum(o.escapes for o in outcomes) / bad:.0f}** | |" in readme
    assert f"| | **{1000 * sum(o.false_alarms for o in outcomes) / good:.0f}** |" in readme
