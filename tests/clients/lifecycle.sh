#!/bin/sh
# The life of a model by the AWS CLI alone: lifecycle.sh AWS ENDPOINT FOLDER OUTPUT. The environment holds keys and region.
set -eu
aws=$1 endpoint=$2 folder=$3 output=$4
lfv() { "$aws" --endpoint-url "$endpoint" lookoutvision "$@"; }
wait_for() { # DESCRIPTION WANTED UNWANTED COMMAND...
    what=$1 wanted=$2 unwanted=$3
    shift 3
    for n in $(seq 300); do
        status=$("$@")
        case " $wanted " in *" $status "*) return 0 ;; esac
        case " $unwanted " in *" $status "*) echo "$what is $status" >&2; exit 1 ;; esac
        sleep $((n < 4 ? n : 4)) # each question is a program of its own, and takes its time from the training
    done
    echo "$what is still $status" >&2
    exit 1
}
dataset() { lfv describe-dataset --project-name parts --dataset-type train --query DatasetDescription.Status --output text; }
model() { lfv describe-model --project-name parts --model-version 1 --query ModelDescription.Status --output text; }
job() {
    lfv describe-model-packaging-job --project-name parts --job-name pack --query ModelPackagingDescription.Status --output text
}

"$aws" --endpoint-url "$endpoint" s3api create-bucket --bucket line-7 \
    --create-bucket-configuration "LocationConstraint=$AWS_DEFAULT_REGION" >/dev/null
"$aws" --endpoint-url "$endpoint" s3 cp --recursive --only-show-errors "$folder" s3://line-7/
"$aws" --endpoint-url "$endpoint" s3 sync --only-show-errors "$folder" s3://line-7/
lfv create-project --project-name parts >/dev/null
lfv create-dataset --project-name parts --dataset-type train \
    --dataset-source '{"GroundTruthManifest": {"S3Object": {"Bucket": "line-7", "Key": "train.manifest"}}}' >/dev/null
wait_for dataset CREATE_COMPLETE CREATE_FAILED dataset
lfv list-dataset-entries --project-name parts --dataset-type train --page-size 5 --max-items 12 --query 'length(DatasetEntries)'
printf '{"source-ref": "s3://line-7/one-more.png"}\n' >"$output/more.jsonl"
lfv update-dataset-entries --project-name parts --dataset-type train --changes "fileb://$output/more.jsonl" >/dev/null
wait_for dataset UPDATE_COMPLETE UPDATE_FAILED_ROLLBACK_COMPLETE dataset
"$aws" --endpoint-url "$endpoint" s3 cp --only-show-errors "$folder/test/$(ls "$folder/test" | head -n 1)" s3://line-7/one-more.png
lfv create-dataset --project-name parts --dataset-type test >/dev/null
arns=$("$aws" --endpoint-url "$endpoint" rekognition describe-projects --project-names parts \
    --query 'ProjectDescriptions[0].Datasets[].DatasetArn' --output text)
# shellcheck disable=SC2086
"$aws" --endpoint-url "$endpoint" rekognition distribute-dataset-entries --datasets $(for arn in $arns; do echo "Arn=$arn"; done)
tests() { lfv describe-dataset --project-name parts --dataset-type test --query DatasetDescription.Status --output text; }
wait_for test UPDATE_COMPLETE UPDATE_FAILED_ROLLBACK_COMPLETE tests
lfv describe-dataset --project-name parts --dataset-type test --query DatasetDescription.ImageStats.Labeled --output text
lfv create-model --project-name parts --output-config '{"S3Location": {"Bucket": "line-7", "Prefix": "out/"}}' \
    --tags Key=line,Value=7 >/dev/null
wait_for model TRAINED TRAINING_FAILED model
"$aws" --endpoint-url "$endpoint" s3 cp --only-show-errors s3://line-7/out/EvaluationManifest-parts-1.json - | wc -l
lfv start-model --project-name parts --model-version 1 --min-inference-units 1 >/dev/null
wait_for model HOSTED "HOSTING_FAILED TRAINED" model
for picture in "$folder"/test/*; do
    lfv detect-anomalies --project-name parts --model-version latest --content-type image/png --body "$picture" \
        --query DetectAnomalyResult.IsAnomalous --output text
done
lfv start-model-packaging-job --project-name parts --model-version 1 --job-name pack --configuration '{"Greengrass": {
    "TargetPlatform": {"Os": "LINUX", "Arch": "X86_64"}, "ComponentName": "parts",
    "S3OutputLocation": {"Bucket": "line-7", "Prefix": "components/"}}}' >/dev/null
wait_for job SUCCEEDED FAILED job
"$aws" --endpoint-url "$endpoint" s3 cp --recursive --only-show-errors s3://line-7/components/ "$output/components"
"$aws" --endpoint-url "$endpoint" s3 ls s3://line-7/ >/dev/null
lfv list-tags-for-resource --output text --query 'Tags[0].Value' --resource-arn "$(
    lfv describe-model --project-name parts --model-version 1 --query ModelDescription.ModelArn --output text)"
lfv stop-model --project-name parts --model-version 1 >/dev/null
wait_for model TRAINED HOSTING_FAILED model
lfv delete-model --project-name parts --model-version 1 >/dev/null
count() { lfv list-models --project-name parts --query 'length(Models)' --output text; }
wait_for models 0 none count
lfv delete-dataset --project-name parts --dataset-type train >/dev/null
lfv delete-dataset --project-name parts --dataset-type test >/dev/null
lfv delete-project --project-name parts >/dev/null
"$aws" --endpoint-url "$endpoint" s3 rb --force s3://line-7 >/dev/null
lfv list-projects --query 'length(Projects)' --output text
