#!/usr/bin/env bash
# Fails when the manifests of k8s/ are not what the chart renders. Usage: k8s/check_drift.sh PYTHON
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
"$1" "$root/k8s/render.py" "$fresh"
for file in base/allotment.yaml try-out/stores.yaml uninstall/allotment.yaml; do
    if ! cmp -s "$fresh/$file" "$root/k8s/$file"; then
        echo "k8s/$file differs from what helm/allotment renders: run make chart-manifests and commit the result" >&2
        exit 1
    fi
done
echo "k8s/ agrees with helm/allotment"
