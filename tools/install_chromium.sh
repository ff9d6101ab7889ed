#!/usr/bin/env bash
# Install Debian's chromium, which the tests of the playground drive, unless a browser is on PATH already.
# Without the right to install it, say what to do; the tests then fail where CI is set, and are skipped elsewhere.
set -euo pipefail
for name in chromium chromium-browser google-chrome; do
    if command -v "$name" > /dev/null; then exit 0; fi
done
root=()
if [ "$(id -u)" != 0 ]; then root=(sudo -n); fi
if command -v apt-get > /dev/null && "${root[@]}" true 2> /dev/null; then
    echo "installing chromium for the tests of the playground"
    export DEBIAN_FRONTEND=noninteractive
    if "${root[@]}" apt-get update -qq && "${root[@]}" apt-get install -y -qq --no-install-recommends chromium > /dev/null; then
        exit 0
    fi
fi
echo "chromium is missing and cannot be installed here: install it, or the tests of the playground do not run" >&2
