#!/usr/bin/env bash
# Each wheel in dist/, installed into an environment that holds torch and finds no compiler: tools/check_wheel.py must pass there.
#   tools/check_wheels.sh [python3]
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
"${1:-python3}" -m venv --clear build/wheels
bin=$root/build/wheels/bin
"$bin/pip" install --quiet --disable-pip-version-check -c constraints.txt torch
for kind in kernels pure; do
    wheels=(dist/mvnjac-*-abi3-manylinux_*.whl)
    [ "$kind" = pure ] && wheels=(dist/mvnjac-*-py3-none-any.whl)
    PATH=$bin "$bin/pip" uninstall --quiet --yes mvnjac 2>/dev/null || true
    PATH=$bin "$bin/pip" install --quiet --disable-pip-version-check -c constraints.txt "$root/${wheels[0]}"
    (cd build/wheels && PATH=$bin "$bin/python" -P "$root/tools/check_wheel.py" "$kind")
    echo "${wheels[0]}: passes"
done
