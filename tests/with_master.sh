#!/usr/bin/env bash
# Starts a master on a free port with an empty state, runs a command with API (its address with the
# prefix), KEY and WORK (a directory for a while) in the environment, and ends the master.
#
#   tests/with_master.sh COMMAND…       NODEPASS_BIN: the binary, else the one of `cargo build`
set -euo pipefail

binary=${NODEPASS_BIN:-${CARGO_TARGET_DIR:-$(dirname "$0")/../target}/debug/nodepass}
dir=$(mktemp -d)
"$binary" "master://127.0.0.1:0?log=info&state=$dir/state.json" >"$dir/log" 2>&1 &
master=$!
trap 'kill "$master" 2>/dev/null; wait "$master" 2>/dev/null || true; rm -rf "$dir"' EXIT

address=
for _ in $(seq 200); do
    address=$(sed -n 's/.*master port open.* address=\([^ ]*\).*/\1/p' "$dir/log")
    [ -z "$address" ] || break
    kill -0 "$master" 2>/dev/null || break
    sleep 0.1
done
if [ -z "$address" ]; then
    echo "the master did not start:" >&2
    cat "$dir/log" >&2
    exit 1
fi

mkdir "$dir/work"
API="http://$address/api/v1" WORK="$dir/work" KEY=$("$binary" key "$dir/state.json") "$@" || {
    code=$?
    echo "--- the last lines of the master" >&2
    tail -n 20 "$dir/log" >&2
    exit "$code"
}
# It has to be alive still.
kill -0 "$master"
