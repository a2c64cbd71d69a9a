#!/bin/sh
# Builds TVM's runtime with CUDA against this device's own CUDA: build_runtime.sh SOURCE [OUTPUT]
#
# SOURCE is an unpacked source archive of Apache TVM 0.27.0.post1 with its submodules, checked by you. Run on the device or in its
# development container; needs cmake 3.18 or newer, g++ and JetPack's CUDA. Not run on a device yet: see README.md.
set -eu
source=${1:?expected: build_runtime.sh SOURCE [OUTPUT]}
output=${2:-$PWD/tvm-runtime}
[ -f "$source/CMakeLists.txt" ] || { echo "no CMakeLists.txt in $source: expected Apache TVM's sources" >&2; exit 1; }
command -v cmake >/dev/null || { echo "cmake is missing: apt-get install cmake" >&2; exit 1; }
cuda=${CUDA_HOME:-/usr/local/cuda}
[ -e "$cuda/lib64/libcudart.so" ] || { echo "no CUDA in $cuda: install JetPack's, or set CUDA_HOME" >&2; exit 1; }
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
# No compiler: the device runs code that was made elsewhere.
cmake -S "$source" -B "$build" -DCMAKE_BUILD_TYPE=Release -DUSE_CUDA="$cuda" -DUSE_LLVM=OFF -DUSE_CUDNN=OFF -DUSE_CUBLAS=OFF \
    -DUSE_THRUST=OFF -DUSE_RPC=OFF -DBUILD_STATIC_RUNTIME=OFF
cmake --build "$build" --target tvm_runtime --parallel "$(nproc)"
mkdir -p "$output"
find "$build" -maxdepth 2 -name 'libtvm_*.so' -exec cp {} "$output/" \;
for library in "$output"/libtvm_runtime*.so; do
    if ldd "$library" | grep 'not found'; then echo "$library lacks libraries" >&2; exit 1; fi
done
echo "built: $output"
