set -eu
folder="{artifacts:decompressedPath}/@ARTIFACT_STEM@"
if [ ! -d "$folder" ]; then # nucleus lite leaves the zip of a local deployment as it is
  folder="{work:path}/unpacked/@ARTIFACT_STEM@"
  if [ ! -d "$folder" ]; then
    rm -rf "{work:path}/unpacked"
    mkdir -p "{work:path}/unpacked"
    if command -v unzip >/dev/null; then
      unzip -q "{artifacts:path}/@ARTIFACT_STEM@.zip" -d "$folder.part"
    else
      python3 -I -m zipfile -e "{artifacts:path}/@ARTIFACT_STEM@.zip" "$folder.part"
    fi
    mv "$folder.part" "$folder"
  fi
fi
