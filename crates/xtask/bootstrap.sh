#!/bin/sh
# What `cargo x` itself needs to be built, where even that is missing: a linker, and make to start it with.
# Everything else is installed by `cargo x setup`.
set -e
missing=
command -v cc >/dev/null 2>&1 || missing="gcc libc6-dev"
command -v make >/dev/null 2>&1 || missing="$missing make"
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
  echo "setup: a C compiler and make are needed (Debian: $missing)" >&2
  exit 1
fi
as_root=
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null 2>&1 || { echo "setup: as root, run: apt-get install $missing" >&2; exit 1; }
  as_root=sudo
fi
echo "setup: installing $missing" >&2
$as_root apt-get --quiet update >&2
$as_root env DEBIAN_FRONTEND=noninteractive apt-get --quiet install --yes --no-install-recommends $missing >&2
