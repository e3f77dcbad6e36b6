#!/usr/bin/env bash
# Compiles the CPU engine for aarch64 and runs tests/cpu/isa_test.cpp under emulation: NEON equals scalar to the bit.
#   tests/tools/run_neon.sh PYTHON
# The compiler is clang as packaged by ziglang (pip). The emulator is qemu-user, either installed or unpacked from the
# Debian package under build/. Without either, the program is compiled but not run, and the script says so.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1
build=build/neon
mkdir -p "$build"
"$python" -c 'import ziglang' 2>/dev/null ||
  "$python" -m pip --disable-pip-version-check -q install -c constraints.txt ziglang

export ZIG_GLOBAL_CACHE_DIR="$PWD/$build/cache" ZIG_LOCAL_CACHE_DIR="$PWD/$build/cache"
"$python" -m ziglang c++ -target aarch64-linux-musl -static -O2 -std=c++17 -ffp-contract=off -fno-math-errno \
  -Wall -Wextra -Werror -Icsrc $(find csrc/cpu -name '*.cpp' -not -name 'avx*') tests/cpu/isa_test.cpp -o "$build/isa_test"
echo "compiled for aarch64: $build/isa_test"

emulator=$(command -v qemu-aarch64-static || command -v qemu-aarch64 || true)
if [ -z "$emulator" ]; then
  emulator=$build/qemu/usr/bin/qemu-aarch64-static
  if [ ! -x "$emulator" ]; then
    (cd "$build" && apt-get -qq download qemu-user-static 2>/dev/null && dpkg -x qemu-user-static_*.deb qemu) || true
  fi
fi
if [ ! -x "$emulator" ]; then
  echo "not run: no qemu-aarch64 here"
  exit 0
fi
timeout 600 "$emulator" "$build/isa_test"
