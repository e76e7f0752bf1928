#!/usr/bin/env bash
# Writes libs/api/allotment_api from protos/. Usage: protos/generate.sh PYTHON [OUT]
set -euo pipefail
python=$(command -v "$1")
[[ $python = /* ]] || python=$PWD/$python
root=$(cd "$(dirname "$0")/.." && pwd)
out=${2:-$root/libs/api}
mkdir -p "$out"
find "$out/allotment_api" -name '*_pb2*' -delete 2>/dev/null || true
bin=$(cd "$(dirname "$python")" && pwd)
cd "$root/protos"
PATH="$bin:$PATH" "$python" -m grpc_tools.protoc -I . \
    --python_out="$out" --grpc_python_out="$out" --mypy_out="$out" --mypy_grpc_out="$out" \
    $(find allotment_api -name '*.proto' | sort)
find "$out/allotment_api" -type d | while read -r folder; do touch "$folder/__init__.py"; done
touch "$out/allotment_api/py.typed"
# Files without a service get an empty companion from the gRPC plugin: not wanted.
find "$out/allotment_api" \( -name '*_pb2_grpc.py' -o -name '*_pb2_grpc.pyi' \) | while read -r file; do
    proto="${file#"$out"/}"; proto="${proto%_pb2_grpc.py*}.proto"
    grep -q '^service ' "$proto" || rm "$file"
done
