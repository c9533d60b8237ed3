#!/usr/bin/env bash
# The program on ARM, emulated: cross-builds it, runs the tests of the protocol crate, and carries users
# through tunnels of which both ends, or one of them, are the ARM program.
#
#   tests/arm.sh PROCESSOR            aarch64 or armv7
#   tests/arm.sh missing PROCESSOR    what this machine lacks for it; nothing if it can be done
set -euo pipefail
cd "$(dirname "$0")/.."

# Few of each: what is emulated takes ten times as long.
export SIM_SEEDS=${SIM_SEEDS:-20} PROPTEST_CASES=${PROPTEST_CASES:-8}

# With both ends emulated, then one of them.
TUNNELS=(
    tunnel_tcp::a_half_close_is_passed_on_either_way::reverse_tls0
    tunnel_tcp::a_half_close_is_passed_on_either_way::reverse_tls1
    tunnel_tcp::a_half_close_is_passed_on_either_way::forward_tls2
    tunnel_tcp::bytes_arrive_once_and_in_order_over_a_slow_network_in_pieces
    tunnel_tcp::curl_downloads_and_uploads_whole_files::reverse_tls1
    tunnel_udp::every_user_gets_its_own_answers::forward_tls1
    tunnel_udp::large_datagrams_arrive_whole::reverse_tls1
)
# What a mixed pair would show no better.
ALONE=(
    cli::check_prints_the_configuration_in_force_and_runs_nothing
    master_info::info_tells_of_the_master_and_its_machine
    master_tunnels::both_ends_in_one_master_carry_tcp_and_udp
    master_tunnels::tunnels_come_back_after_the_master_was_killed
    single_end::with_tls_it_ends_tls_and_dials_plain
    stop::a_download_goes_on_after_sigterm_and_new_users_are_not_served
    tunnel_tcp::a_target_by_name_is_resolved
    tunnel_tcp::two_hundred_users_at_once_are_served::forward_tls1
)

only_missing=
if [ "${1:-}" = missing ]; then
    only_missing=1
    shift
fi
case "${1:-}" in
    aarch64)
        target=aarch64-unknown-linux-gnu qemu=qemu-aarch64-static
        gcc=aarch64-linux-gnu libc=libc6-dev-arm64-cross std=libstd-rust-web-dev:arm64
        loader=/lib/ld-linux-aarch64.so.1
        ;;
    armv7)
        target=armv7-unknown-linux-gnueabihf qemu=qemu-arm-static
        gcc=arm-linux-gnueabihf libc=libc6-dev-armhf-cross std=rust-web-src
        loader=
        ;;
    *)
        sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
        exit 2
        ;;
esac

have() { command -v "$1" >/dev/null 2>&1; }

# Whether the compiler $1 has the standard library of the target, or only its source.
has_std() { ls "$("$1" --print sysroot)/lib/rustlib/$target/lib/"libstd-*.rlib >/dev/null 2>&1; }
has_source() { ls "$("$1" --print sysroot)/lib/rustlib/src/rust/library/Cargo.lock" >/dev/null 2>&1; }

# The packages of Debian that are missing.
missing() {
    ((${#cargo[@]})) || echo "$std"
    have "$gcc-gcc" || echo "gcc-$gcc"
    [ -e "$("$gcc-gcc" -print-file-name=crt1.o 2>/dev/null)" ] || echo "$libc"
    have "$qemu" || echo qemu-user-static
    [ -z "$loader" ] || [ -e "$loader" ] || echo libc6:arm64
}

# The Rust at hand, else that of Debian, which may have to build its standard library too.
cargo=() rust=()
if has_std rustc || { have rustup && rustup target add "$target" >/dev/null 2>&1; }; then
    cargo=(cargo)
elif [ -x /usr/bin/rustc ] && has_std /usr/bin/rustc; then
    cargo=(/usr/bin/cargo) rust=(RUSTC=/usr/bin/rustc)
elif [ -x /usr/bin/rustc ] && has_source /usr/bin/rustc; then
    cargo=(/usr/bin/cargo -Zbuild-std=std,panic_unwind,test)
    rust=(RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1)
fi

lacking=$(missing | paste -s -d ' ')
if [ -n "$only_missing" ]; then
    echo "$lacking"
    exit
elif [ -n "$lacking" ]; then
    echo "missing: $lacking" >&2
    exit 1
fi

cross() { env "${rust[@]}" "${cargo[@]}" --config contrib/arm.toml "$@" --target "$target" --locked; }

# black_box COUNT VARIABLE=VALUE… TEST…: of these black-box tests, COUNT must exist and pass.
black_box() {
    local count=$1 said
    shift
    said=$(env NODEPASS_BIN="$binary" NODEPASS_RUNNER="$qemu" "$@" 2>&1) || {
        echo "$said"
        return 1
    }
    grep "^test " <<<"$said"
    grep -q "^test result: ok. $count passed" <<<"$said"
}

tests=(cargo test --locked --test blackbox -- --exact)
binary=$(realpath -m "${CARGO_TARGET_DIR:-target}/$target/debug/nodepass")

echo "-- $target: build"
cross build
# For the tests that start it.
cross build -p nodepass-protocol --examples
echo "-- $target: the protocol crate, emulated"
# The documentation's examples would ask for the same from another compiler's rustdoc.
NODEPASS_RUNNER=$qemu cross test -p nodepass-protocol --lib --tests
echo "-- $target: both ends emulated"
black_box $((${#TUNNELS[@]} + ${#ALONE[@]})) "${tests[@]}" "${TUNNELS[@]}" "${ALONE[@]}"
for end in server client; do
    echo "-- $target: the $end emulated"
    black_box "${#TUNNELS[@]}" NODEPASS_ONLY=$end "${tests[@]}" "${TUNNELS[@]}"
done
