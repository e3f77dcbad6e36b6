#!/usr/bin/env bash
# Prepares an unpacked source distribution for building a wheel with the CUDA engine. Run in its folder.
# The version gets "+cu13". PyPI refuses such versions, and pip takes 0.1.0+cu13 wherever 0.1.0 is asked for.
# A container for building wheels also gets nvcc 13.0: wheels of a later one ask for a newer driver (docs/releasing.md).
set -euo pipefail
sed -i 's/^\(version = "[^"+]*\)"$/\1+cu13"/' pyproject.toml
grep '^version = ".*+cu13"$' pyproject.toml
if ! command -v nvcc >/dev/null && ! command -v "${CUDACXX:-}" >/dev/null; then
  curl -sSfo /etc/yum.repos.d/cuda.repo https://developer.download.nvidia.com/compute/cuda/repos/rhel8/x86_64/cuda-rhel8.repo
  dnf install -y cuda-minimal-build-13-0
fi
