#!/usr/bin/env bash
# Fails when libs/api is not what protos/ generate. Usage: protos/check_drift.sh PYTHON
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
"$root/protos/generate.sh" "$1" "$fresh" >/dev/null 2>&1
if ! diff -r -q -x __pycache__ "$fresh/allotment_api" "$root/libs/api/allotment_api"; then
    echo "libs/api differs from protos/: run make protos and commit the result" >&2
    exit 1
fi
echo "generated code agrees with protos/"
