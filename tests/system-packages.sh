#!/bin/sh
# Installs what the tests need of the system and does not have, through apt (as root or with sudo).
# Without apt, or without the right to use it, it names the packages in one line; the tests of that tier
# then skip with a reason, or fail under CI=true.
set -eu

missing=""
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need xrootd "xrootd-server xrootd-server-plugins"
need xrdfs xrootd-client
need openssl openssl # names the storage servers' certificates as they look for them
need curl curl # the yardstick of the transfer benchmark
need_plugin() {
    for file in /usr/lib/*/"$1" /usr/lib64/"$1"; do [ ! -e "$file" ] || return 0; done
    missing="$missing $2"
}
need_plugin libXrdSecztn-5.so xrootd-plugins # tokens as the login of root://
need_plugin libXrdAccSciTokens-5.so xrootd-scitokens-plugins
need strace strace
need gcc "gcc libc6-dev" # for the fake NVML library
if [ "$(id -u)" = 0 ]; then # the tests of the image run as root only
    need buildah buildah
    need podman podman
    need runc runc
    need mmdebstrap mmdebstrap
fi
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "tests: please install:$missing" >&2
    exit 0
fi
if [ "$(id -u)" = 0 ]; then become=""; else become="sudo -n"; fi
if [ -n "$become" ] && ! $become true 2>/dev/null; then
    echo "tests: some need packages that only root can install: apt-get install$missing" >&2
    exit 0
fi
echo "tests: installing$missing"
$become apt-get -o DPkg::Lock::Timeout=300 -qq update
# shellcheck disable=SC2086  # a list of words
DEBIAN_FRONTEND=noninteractive $become apt-get -o DPkg::Lock::Timeout=300 -qq install -y --no-install-recommends $missing >/dev/null
