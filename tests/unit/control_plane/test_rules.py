"""Small rules: the split by a fifth, scaling, packaging targets, settings."""

from collections import Counter
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linewatch.anomaly_model.child_job import Outcome
from linewatch.anomaly_model.errors import Remedy
from linewatch.anomaly_model.settings import SettingsError
from linewatch.control_plane.errors import ValidationError
from linewatch.control_plane.hosting.scaler import GROW_AFTER_S, SHRINK_AFTER_S, Scaler
from linewatch.control_plane.jobs.background_tasks import choose_fifth
from linewatch.control_plane.jobs.remedies import CALLS, advise
from linewatch.control_plane.jobs.worker import JobSpec, run_job
from linewatch.control_plane.operations.packaging import check_target, target_name
from linewatch.control_plane.settings import Settings, load_settings


@given(st.lists(st.sampled_from(["normal", "anomaly", None]), min_size=1, max_size=200))
def test_a_fifth_of_each_class_is_chosen(classes: list[str | None]) -> None:
    rows = [(i, f"s3://b/{i}", c) for i, c in enumerate(classes)]
    chosen = choose_fifth(rows)
    assert chosen == choose_fifth(list(reversed(rows)))
    assert len(set(chosen)) == len(chosen)
    by_class, there = Counter(classes[i] for i in chosen), Counter(classes)
    for name, count in there.items():
        assert by_class[name] == max(1, int(count * 0.2 + 0.5))


def test_units_grow_under_load_and_shrink_after_a_quiet_while() -> None:
    scaler = Scaler(1, 3)
    assert scaler.decide(1, 1.0, 0, 0.0) == 1
    assert scaler.decide(1, 1.0, 2, GROW_AFTER_S) == 2
    assert scaler.decide(2, 1.0, 2, GROW_AFTER_S + 1) == 2
    assert scaler.decide(2, 1.0, 2, 2 * GROW_AFTER_S) == 3
    assert scaler.decide(3, 1.0, 9, 9 * GROW_AFTER_S) == 3
    start = 1000.0
    assert scaler.decide(3, 0.0, 0, start) == 3
    assert scaler.decide(3, 0.5, 0, start + SHRINK_AFTER_S) == 3  # neither busy nor quiet: the quiet time begins anew
    assert scaler.decide(3, 0.0, 0, start + SHRINK_AFTER_S + 1) == 3
    assert scaler.decide(3, 0.0, 0, start + 2 * SHRINK_AFTER_S + 1) == 2


@given(st.integers(1, 3), st.integers(0, 3), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 9), st.floats(0, 100)), max_size=50))
def test_units_stay_between_their_bounds(least: int, more: int, history: list[tuple[float, int, float]]) -> None:
    scaler, units, clock = Scaler(least, least + more), least, 0.0
    for load, waiting, seconds in history:
        clock += seconds
        wanted = scaler.decide(units, load, waiting, clock)
        assert least <= wanted <= least + more
        assert abs(wanted - units) <= 1
        units = wanted


PLATFORM = {"Os": "LINUX", "Arch": "X86_64"}
NVIDIA = {**PLATFORM, "Accelerator": "NVIDIA"}
GPU = '{"gpu-code": "sm_75", "trt-ver": "7.1.3", "cuda-ver": "10.2"}'


@pytest.mark.parametrize("wanted", [
    {"TargetDevice": "jetson_xavier"}, {"TargetPlatform": PLATFORM},
    {"TargetPlatform": PLATFORM, "CompilerOptions": '{"mcpu": "core-avx2"}'},
    {"TargetPlatform": {**PLATFORM, "Arch": "ARM64"}, "CompilerOptions": "{'mattr': ['+neon', '+vfpv4']}"},
    {"TargetPlatform": NVIDIA, "CompilerOptions": GPU}, {"TargetPlatform": NVIDIA, "CompilerOptions": GPU.replace('"', "'")},
])  # fmt: skip
def test_targets_that_the_documents_show(wanted: dict[str, object]) -> None:
    check_target(wanted)


@pytest.mark.parametrize(("wanted", "message"), [
    ({}, "either"), ({"TargetDevice": "jetson_xavier", "TargetPlatform": PLATFORM}, "not both"),
    ({"TargetDevice": "jetson_xavier", "CompilerOptions": "{}"}, "no CompilerOptions"),
    ({"TargetPlatform": NVIDIA}, "gpu-code, trt-ver, cuda-ver"),
    ({"TargetPlatform": NVIDIA, "CompilerOptions": '{"mcpu": "core-avx2"}'}, "gpu-code, trt-ver, cuda-ver"),
    ({"TargetPlatform": NVIDIA, "CompilerOptions": '{"gpu-code": "sm_75", "cuda-ver": "10.2"}'}, "trt-ver"),
    ({"TargetPlatform": PLATFORM, "CompilerOptions": GPU}, "Accelerator"),
])  # fmt: skip
def test_targets_that_do_not_go_together(wanted: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        check_target(wanted)


@pytest.mark.parametrize("text", ["x", "[]", "{", '{"a": 1}', '{"mcpu": 5}', '{"mcpu": "a b"}', '{"mattr": "+x"}', '{"mattr": ["x y"]}',
                                  "__import__('os')", "{" * 500, '{"cuda-ver": "10"}'])  # fmt: skip
def test_options_that_are_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="CompilerOptions"):
        check_target({"TargetPlatform": PLATFORM, "CompilerOptions": text})


def test_names_of_targets() -> None:
    assert target_name({"TargetPlatform": PLATFORM}) == "x86_64-cpu"
    assert target_name({"TargetPlatform": {**NVIDIA, "Arch": "ARM64"}}) == "aarch64-nvidia"
    assert target_name({"TargetDevice": "jetson_xavier"}) == "jetson_xavier"


def test_tables_of_a_settings_file_are_prefixes(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('port = 9000\n[jobs]\nscheduler = "tcp://dask:8786"\nparallel = 3\n[quota]\nprojects = 7\n')
    found = load_settings(file, {"LINEWATCH_SERVER_PORT": "9001"}, {"data": "d", "host": None})
    assert found == Settings(port=9001, jobs_scheduler="tcp://dask:8786", jobs_parallel=3, quota_projects=7, data="d")
    assert found.database_url.endswith("d/linewatch.db")


@pytest.mark.parametrize(("flags", "message"), [
    ({"anonymous": True, "host": "0.0.0.0"}, "anybody on the network"), ({"tls_key": "k"}, "go together"),  # noqa: S104
    ({"proxies": "10.0.0.1, proxy.plant"}, "IP addresses"),
    ({"account": "12"}, "account"), ({"port": 70000}, "port"), ({"nothing": 1}, "unknown setting"), ({"threads": 0}, "threads"),
])  # fmt: skip
def test_settings_that_are_refused(flags: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_settings(None, {}, flags)


def test_the_services_quotas_are_the_defaults() -> None:
    found = Settings()
    assert (found.quota_trainings, found.training_hours, found.quota_labels, found.quota_mask_labels) == (2, 24, 100, 20)
    assert (found.quota_train_pictures, found.quota_test_pictures) == (16000, 4000)
    assert (found.quota_train_masked, found.quota_test_masked) == (8000, 800)
    assert (found.least_normal, found.least_anomaly, found.least_label) == (20, 10, 20)
    assert (found.least_normal_each, found.least_test_anomaly, found.least_label_each) == (10, 10, 10)


def job_spec(folder: Path, fetch: list[str]) -> Outcome:
    (folder / "spec.json").write_text("{}")
    spec = JobSpec("train", str(folder), 1, str(folder / "objects"), "", "r", 1, fetch, [], "111122223333")
    return msgspec.json.decode(run_job(msgspec.json.encode(spec)), type=Outcome)


def test_keys_that_cannot_be_files_fail_at_once_and_are_named(tmp_path: Path) -> None:
    (tmp_path / "objects" / "pics").mkdir(parents=True)
    (tmp_path / "objects" / "pics" / "a").touch()
    odd = ["s3://pics/nul\0.png", "s3://pics/" + "x" * 300, "s3://pics/../../etc/passwd", "s3://pics/gone.png"]
    said = job_spec(tmp_path, ["s3://pics/a", *odd]).error
    assert said.startswith("4 of 5 pictures and masks cannot be read from S3: ")
    assert "'s3://pics/nul\\x00.png'" in said
    assert "gone.png" in said
    assert str(tmp_path) not in said


def test_what_was_so_once_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError(f"{tmp_path}/secret")

    monkeypatch.setattr("linewatch.control_plane.jobs.worker._stage_in", broken)
    assert job_spec(tmp_path, []) == Outcome(error="internal error: KeyError; the log on the server has more", fault=True)


def test_every_remedy_has_its_call() -> None:
    assert set(CALLS) == set(Remedy)
    assert advise("it is so", [Remedy.OTHER_VERSION, Remedy.OTHER_OUTPUT]) == "it is so. Name another ComponentVersion"
    for text in CALLS.values():
        assert "--" not in text


def test_a_job_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text("{}")
    spec = JobSpec("train", str(tmp_path), 1e-5, str(tmp_path / "objects"), "", "r", 1, [], [], "111122223333")
    outcome = msgspec.json.decode(run_job(msgspec.json.encode(spec)), type=Outcome)
    assert "the most that the settings allow" in outcome.error
    assert msgspec.json.decode((tmp_path / "final.json").read_bytes(), type=Outcome) == outcome
