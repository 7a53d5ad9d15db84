#!/bin/sh
# Builds the pilot's image, panda-pod-pilot:<version> and panda-pod-pilot:dev, with buildah, podman or docker, the
# first of them that works here. From the environment:
#   BUILDER     one of the three, instead of the first
#   BASE        image to build on; default: the Dockerfile's, or a stand-in where that one cannot be pulled
#   TAG         tag instead of the package's version
#   CA_BUNDLE   certificates that pip trusts; default: Debian's bundle of this machine, if there is one
#   PIP_CONFIG  pip's configuration for the build; the bundle is /run/ca.pem there
#   MIRROR      Debian mirror for the stand-in; default: mmdebstrap's
set -eu
cd "$(dirname "$0")/.."

name=panda-pod-pilot
stand_in=localhost/$name-base:bookworm
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' HUP INT TERM

say() { echo "image: $*" >&2; }
die() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# Through apt, where we may; 1 where we may not, or it fails.
install_by_apt() {
    if [ "$(id -u)" != 0 ] || ! have apt-get; then return 1; fi
    say "installing $*"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get -o DPkg::Lock::Timeout=300 -qq update &&
        apt-get -o DPkg::Lock::Timeout=300 -qq install -y --no-install-recommends "$@"; } >"$scratch/apt.log" 2>&1 ||
        { tail -n 5 "$scratch/apt.log" >&2; return 1; }
}

find_builder() {
    if have buildah; then echo buildah
    elif have podman; then echo podman
    elif docker version >/dev/null 2>&1; then echo docker  # the client alone is not enough
    else return 1
    fi
}

build() {
    case $builder in
        docker) DOCKER_BUILDKIT=1 docker build --network host "$@" ;;
        *) "$builder" build --isolation chroot --network host --format docker "$@" ;;
    esac
}

present() {
    case $builder in
        buildah) buildah inspect --type image "$1" ;;
        *) "$builder" image inspect "$1" ;;
    esac >/dev/null 2>&1
}

# A Debian with Python, made of Debian's packages. It has a name of its own and never passes for the real base.
make_stand_in() {
    have mmdebstrap || install_by_apt mmdebstrap || return 1
    mkdir "$scratch/base"
    # shellcheck disable=SC2086  # the mirror is one word or none
    mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3,python3-pip,python3-venv \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$scratch/base/base.tar" ${MIRROR:-} >&2 || return 1
    printf 'FROM scratch\nADD base.tar /\nCMD ["python3"]\n' >"$scratch/base/Dockerfile"
    build --quiet --tag "$stand_in" "$scratch/base" >&2
}

# Prints the base to build on.
find_base() {
    wanted=${BASE:-$(sed -n 's/^ARG BASE=//p' Dockerfile)}
    if present "$wanted" || "$builder" pull "$wanted" >"$scratch/pull.log" 2>&1; then
        echo "$wanted"
        return
    fi
    why=$(tail -n 1 "$scratch/pull.log")
    [ -z "${BASE:-}" ] || die "$wanted cannot be pulled: $why"
    say "$wanted cannot be pulled, so this builds on $stand_in, made by mmdebstrap of Debian's packages ($why)"
    present "$stand_in" || make_stand_in || die "no stand-in either: install mmdebstrap, or name an image with BASE"
    echo "$stand_in"
}

builder=${BUILDER:-$(find_builder)} || { install_by_apt buildah && builder=buildah; } ||
    die "no image builder works here: install buildah, podman or docker (apt-get install buildah)"
base=$(find_base)
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' pilot/__init__.py)

# The build's secrets are files of this machine that only pip sees, and that no layer keeps.
ca=${CA_BUNDLE:-/etc/ssl/certs/ca-certificates.crt}
pip=${PIP_CONFIG:-$scratch/pip.conf}
if [ -f "$ca" ]; then
    set -- --secret "id=ca,src=$ca"
    [ -n "${PIP_CONFIG:-}" ] || printf '[global]\ncert = /run/ca.pem\n' >"$pip"
fi
[ ! -f "$pip" ] || set -- "$@" --secret "id=pip,src=$pip"
build --build-arg "BASE=$base" --build-arg "VERSION=$version" "$@" \
    --tag "$name:${TAG:-$version}" --tag "$name:dev" .
say "built $name:${TAG:-$version} and $name:dev with $builder on $base"
