#!/usr/bin/env bash
# Build an image with its software bill of materials and provenance attached.
#
#     PYTHON_DIGEST=sha256:... k8s/build.sh cpu|cuda [NAME] [options of docker buildx build, such as --push]
#
# The digest of the base image is asked of the registry once, written down where you keep such things, and raised
# on purpose:
#
#     docker buildx imagetools inspect python:3.11-slim-bookworm --format '{{.Manifest.Digest}}'
set -euo pipefail
cd "$(dirname "$0")/.."

target=${1:-}
if [[ $target != cpu && $target != cuda ]]; then
    echo "usage: PYTHON_DIGEST=sha256:... k8s/build.sh cpu|cuda [NAME] [options of docker buildx build]" >&2
    exit 2
fi
if [[ ! ${PYTHON_DIGEST:-} =~ ^sha256:[0-9a-f]{64}$ ]]; then
    echo "PYTHON_DIGEST must be the digest of the base image; ask the registry for it:" >&2
    echo "    docker buildx imagetools inspect python:3.11-slim-bookworm --format '{{.Manifest.Digest}}'" >&2
    exit 2
fi
version=$(sed --quiet 's/^version = "\(.*\)"/\1/p' pyproject.toml)
name=${2:-surtitle}
exec docker buildx build --file k8s/Dockerfile --target "$target" --tag "$name:$version-$target" \
    --build-arg "PYTHON_DIGEST=$PYTHON_DIGEST" --sbom=true --provenance=mode=max "${@:3}" .
