"""The whole life of a model by boto3 alone, as a plant's script would do it; run with whatever boto3 is to be tested.

    python lifecycle.py ENDPOINT FOLDER REGION

FOLDER holds train.manifest and test/ with pictures; every s3://BUCKET/KEY of the manifest is FOLDER/KEY. Every answer is
checked against botocore's own output shapes. Prints what it found as one JSON object.
"""

import json
import sys
import time
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.validate import ParamValidator

BUCKET = "line-7"


def check_answers(client):
    """Check every answer against the model's output shape: types, required members, and no member that it lacks."""

    def check(parsed, model, **_):
        if parsed["ResponseMetadata"]["HTTPStatusCode"] >= 300:
            return
        expected = model.http.get("responseCode", 200)
        assert parsed["ResponseMetadata"]["HTTPStatusCode"] == expected, (model.name, parsed)
        answer = {k: v for k, v in parsed.items() if k != "ResponseMetadata"}
        report = ParamValidator().validate(answer, model.output_shape)
        assert not report.has_errors(), f"{model.name}: {report.generate_report()}"
        checked.append(model.name)

    checked = []
    client.meta.events.register("after-call.lookoutvision.*", check)
    return checked


def wait(what, is_done, describe, seconds=900):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        status, message = describe()
        if is_done(status):
            return status, message
        time.sleep(0.3)
    raise TimeoutError(f"{what} is {status} after {seconds} s: {message}")


def main(endpoint, folder, region, device=""):
    folder = Path(folder)
    config = Config(retries={"max_attempts": 0}, s3={"addressing_style": "path"})
    client = boto3.client("lookoutvision", endpoint_url=endpoint, region_name=region, config=config)
    s3 = boto3.client("s3", endpoint_url=endpoint, region_name=region, config=config)
    checked = check_answers(client)
    found = {"boto3": boto3.__version__}

    where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    s3.create_bucket(Bucket=BUCKET, **where)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            s3.upload_file(str(path), BUCKET, path.relative_to(folder).as_posix())

    client.create_project(ProjectName="parts")
    client.create_dataset(
        ProjectName="parts", DatasetType="train",
        DatasetSource={"GroundTruthManifest": {"S3Object": {"Bucket": BUCKET, "Key": "train.manifest"}}},
    )  # fmt: skip
    # At once, without waiting for the dataset: scripts do so.
    created = client.create_model(
        ProjectName="parts", Description="first-try", Tags=[{"Key": "line", "Value": "7"}],
        OutputConfig={"S3Location": {"Bucket": BUCKET, "Prefix": "out/"}},
    )["ModelMetadata"]  # fmt: skip
    assert created["Status"] == "TRAINING"
    assert created["StatusMessage"] == ""
    version = created["ModelVersion"]

    def dataset():
        d = client.describe_dataset(ProjectName="parts", DatasetType="train")["DatasetDescription"]
        return d["Status"], d["StatusMessage"]

    def model():
        d = client.describe_model(ProjectName="parts", ModelVersion=version)["ModelDescription"]
        return d["Status"], d["StatusMessage"]

    status, message = wait("dataset", lambda s: s != "CREATE_IN_PROGRESS", dataset)
    assert status == "CREATE_COMPLETE", message
    found["stats"] = client.describe_dataset(ProjectName="parts", DatasetType="train")["DatasetDescription"]["ImageStats"]
    pages = client.get_paginator("list_dataset_entries").paginate(
        ProjectName="parts", DatasetType="train", PaginationConfig={"PageSize": 7}
    )
    found["entries"] = len([line for page in pages for line in page["DatasetEntries"]])

    began = time.monotonic()
    status, message = wait("model", lambda s: s != "TRAINING", model)
    assert status == "TRAINED", message
    found["training_s"] = round(time.monotonic() - began, 1)
    described = client.describe_model(ProjectName="parts", ModelVersion=version)["ModelDescription"]
    found["performance"] = described["Performance"]
    assert described["EvaluationEndTimestamp"] > described["CreationTimestamp"]
    for name in ("EvaluationResult", "EvaluationManifest"):
        place = described[name]
        assert place["Key"] == f"out/{name}-parts-{version}.json", place
        body = s3.get_object(Bucket=place["Bucket"], Key=place["Key"])["Body"].read()
        found[name] = json.loads(body) if name == "EvaluationResult" else len(body.splitlines())
    mask = json.loads(body.splitlines()[0])["anomaly-mask-ref-detected"].removeprefix(f"s3://{BUCKET}/")
    assert s3.get_object(Bucket=BUCKET, Key=mask)["Body"].read().startswith(b"\x89PNG")

    began = time.monotonic()
    assert client.start_model(ProjectName="parts", ModelVersion=version, MinInferenceUnits=1)["Status"] == "STARTING_HOSTING"
    status, message = wait("hosting", lambda s: s != "STARTING_HOSTING", model)
    assert status == "HOSTED", message
    found["start_s"] = round(time.monotonic() - began, 1)

    answers = {}
    began = time.monotonic()
    for path in sorted((folder / "test").iterdir()):
        kind = "image/png" if path.suffix == ".png" else "image/jpeg"
        answer = client.detect_anomalies(
            ProjectName="parts", ModelVersion=version, Body=path.read_bytes(), ContentType=kind
        )["DetectAnomalyResult"]  # fmt: skip
        assert answer["Source"] == {"Type": "direct"}
        assert 0 <= answer["Confidence"] <= 1
        if "Anomalies" in answer:
            assert answer["Anomalies"][0]["Name"] == "background"
            assert abs(sum(a["PixelAnomaly"]["TotalPercentageArea"] for a in answer["Anomalies"]) - 1) < 1e-4
            assert answer["AnomalyMask"].startswith(b"\x89PNG")
        answers[path.name] = answer["IsAnomalous"]
    found["detect_ms"] = round(1000 * (time.monotonic() - began) / max(len(answers), 1), 1)
    found["answers"] = answers

    def package(name, target):
        job = client.start_model_packaging_job(
            ProjectName="parts", ModelVersion=version, JobName="pack-" + name.replace(".", "-"),
            Configuration={"Greengrass": {
                **target, "S3OutputLocation": {"Bucket": BUCKET, "Prefix": "components/"}, "ComponentName": name,
                "ComponentDescription": "Line 7", "Tags": [{"Key": "plant", "Value": "a"}],
            }},
        )["JobName"]  # fmt: skip

        def packaging():
            d = client.describe_model_packaging_job(ProjectName="parts", JobName=job)["ModelPackagingDescription"]
            return d["Status"], d["StatusMessage"]

        began = time.monotonic()
        status, message = wait("packaging", lambda s: s in ("SUCCEEDED", "FAILED"), packaging)
        assert status == "SUCCEEDED", message
        found["packaging_s"] = round(time.monotonic() - began, 1)
        output = client.describe_model_packaging_job(ProjectName="parts", JobName=job)["ModelPackagingDescription"]
        account = described["ModelArn"].split(":")[4]
        component = output["ModelPackagingOutputDetails"]["Greengrass"]
        assert component == {
            "ComponentVersionArn": f"arn:aws:greengrass:{region}:{account}:components:{name}:versions:{version}.0.0",
            "ComponentName": name, "ComponentVersion": f"{version}.0.0",
        }  # fmt: skip
        base = f"components/{name}/{version}.0.0/"
        listed = s3.list_objects_v2(Bucket=BUCKET, Prefix=base)["Contents"]
        files = {o["Key"].removeprefix(base): o["Size"] for o in listed}
        for key, size in files.items():
            assert len(s3.get_object(Bucket=BUCKET, Key=base + key)["Body"].read()) == size
        recipe = json.loads(s3.get_object(Bucket=BUCKET, Key=f"{base}recipe.json")["Body"].read())
        assert recipe["ComponentDescription"] == "Line 7"
        artifact = recipe["Manifests"][0]["Artifacts"][0]["Uri"]
        assert artifact.removeprefix(f"s3://{BUCKET}/{base}") in files
        assert json.loads(s3.get_object(Bucket=BUCKET, Key=f"{base}component.json")["Body"].read())["tags"] == {"plant": "a"}
        found["component_files"] = sorted(files)
        return recipe["Manifests"][0]["Platform"]["architecture"]

    if device:
        assert package("com.example.device", {"TargetDevice": device}) == "aarch64"
    options = {"TargetPlatform": {"Os": "LINUX", "Arch": "X86_64"}, "CompilerOptions": '{"mcpu": "core-avx2"}'}
    assert package("com.example.parts", options) == "amd64"
    assert len(client.list_model_packaging_jobs(ProjectName="parts")["ModelPackagingJobs"]) == 1 + bool(device)

    arn = described["ModelArn"]
    assert client.list_tags_for_resource(ResourceArn=arn)["Tags"] == [{"Key": "line", "Value": "7"}]
    client.tag_resource(ResourceArn=arn, Tags=[{"Key": "a b", "Value": "c"}])
    client.untag_resource(ResourceArn=arn, TagKeys=["a b", "line"])
    assert client.list_tags_for_resource(ResourceArn=arn)["Tags"] == []

    refusals = []
    for delete, names in ((client.delete_model, {"ModelVersion": version}), (client.delete_project, {})):
        try:
            delete(ProjectName="parts", **names)
        except client.exceptions.ConflictException as error:
            refusals.append(error.response["ResourceType"])
    assert refusals == ["MODEL", "PROJECT"]
    client.stop_model(ProjectName="parts", ModelVersion=version)
    status, message = wait("stop", lambda s: s != "STOPPING_HOSTING", model)
    assert status == "TRAINED", message
    assert client.delete_model(ProjectName="parts", ModelVersion=version)["ModelArn"] == arn
    wait("delete", lambda s: s == 0, lambda: (len(client.list_models(ProjectName="parts")["Models"]), ""))
    client.delete_dataset(ProjectName="parts", DatasetType="train")
    client.create_dataset(ProjectName="parts", DatasetType="train")
    client.update_dataset_entries(
        ProjectName="parts", DatasetType="train",
        Changes=json.dumps({"source-ref": f"s3://{BUCKET}/one.png"}),
    )  # fmt: skip
    status, _ = dataset()
    assert status in ("UPDATE_IN_PROGRESS", "UPDATE_COMPLETE")
    wait("update", lambda s: s == "UPDATE_COMPLETE", dataset)
    client.delete_dataset(ProjectName="parts", DatasetType="train")
    assert client.describe_project(ProjectName="parts")["ProjectDescription"]["Datasets"] == []
    assert [p["ProjectName"] for p in client.list_projects()["Projects"]] == ["parts"]
    client.delete_project(ProjectName="parts")
    assert client.list_projects()["Projects"] == []
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        keys = [{"Key": o["Key"]} for o in page["Contents"]]
        s3.delete_objects(Bucket=BUCKET, Delete={"Objects": keys, "Quiet": True})
    s3.delete_bucket(Bucket=BUCKET)
    found["checked"] = sorted(set(checked))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
