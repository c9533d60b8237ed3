#!/usr/bin/env bash
# A front end at another origin in headless Chromium. Needs chromium and node; playwright-core, which
# drives it, is installed into a directory of its own. Exit 77: cannot be run here, with the reason.
set -euo pipefail
cd "$(dirname "$0")/.."

# Newer ones may ask for a newer node than Debian has.
PLAYWRIGHT_VERSION=1.55.0

cannot() {
    echo "$1"
    exit 77
}

CHROMIUM=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
[ -n "$CHROMIUM" ] || cannot "chromium is not installed"
command -v node >/dev/null || cannot "node is not installed"
if [ -z "${PLAYWRIGHT:-}" ]; then
    command -v npm >/dev/null || cannot "npm is not installed"
    modules=${CARGO_TARGET_DIR:-target}/browser
    if ! [ -f "$modules/node_modules/playwright-core/index.mjs" ]; then
        mkdir -p "$modules"
        npm install --silent --no-audit --no-fund --prefix "$modules" \
            "playwright-core@$PLAYWRIGHT_VERSION" >/dev/null 2>&1 || cannot "playwright-core is not to be had"
    fi
    PLAYWRIGHT=$(realpath "$modules/node_modules/playwright-core/index.mjs")
fi
export CHROMIUM PLAYWRIGHT
timeout 300 tests/with_master.sh node tests/browser.mjs
