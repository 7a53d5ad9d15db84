#!/bin/sh
# Builds the pilot's image, panda-pod-pilot:<version> and panda-pod-pilot:dev, with buildah, podman or docker, the
# first of them that works here. From the environment:
#   BASE        image to build on; default: the Dockerfile's, or a stand-in where that one cannot be pulled
#   TAG         tag instead of the package's version
#   CA_BUNDLE   certificates that pip trusts; default: this machine's bundle, if it has Debian's
#   PIP_CONFIG  pip configuration file for the build; it finds the bundle at /run/ca.pem
#   MIRROR      Debian mirror for the stand-in; default: mmdebstrap's
set -eu
cd "$(dirname "$0")/.."

name=panda-pod-pilot
stand_in=localhost/$name-base:bookworm
CA_BUNDLE=${CA_BUNDLE:-/etc/ssl/certs/ca-certificates.crt}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' HUP INT TERM

say() { echo "image: $*" >&2; }
die() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# Through apt, where this may be done.
try_apt() {
    if [ "$(id -u)" != 0 ] || ! have apt-get; then return 1; fi
    say "installing $*"
    apt-get -o DPkg::Lock::Timeout=300 -qq update >&2 &&
        DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -qq install -y --no-install-recommends \
            "$@" >"$scratch/apt.log" 2>&1 || { tail -n 5 "$scratch/apt.log" >&2; return 1; }
}

find_builder() {
    if have buildah; then echo buildah
    elif have podman; then echo podman
    # the client alone is not enough
    elif have docker && docker version >/dev/null 2>&1; then echo docker
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
        podman) podman image exists "$1" ;;
        docker) docker image inspect "$1" ;;
    esac >/dev/null 2>&1
}

# A Debian with Python, made of Debian's packages. It has a name of its own, and never passes for the real one.
make_stand_in() {
    present "$stand_in" && return
    have mmdebstrap || try_apt mmdebstrap || return 1
    mkdir "$scratch/base"
    # shellcheck disable=SC2086 - the mirror is one word or none
    mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3,python3-pip,python3-venv \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$scratch/base/base.tar" ${MIRROR:-} >&2 || return 1
    printf 'FROM scratch\nADD base.tar /\nCMD ["python3"]\n' >"$scratch/base/Dockerfile"
    build --quiet --tag "$stand_in" "$scratch/base" >&2
}

find_base() {
    wanted=${BASE:-$(sed -n 's/^ARG BASE=//p' Dockerfile)}
    if present "$wanted" || "$builder" pull "$wanted" >"$scratch/pull.log" 2>&1; then
        base=$wanted
        return
    fi
    why=$(tail -n 1 "$scratch/pull.log")
    [ -z "${BASE:-}" ] || die "$wanted cannot be pulled: $why"
    say "$wanted cannot be pulled ($why); building on $stand_in, made of Debian's packages by mmdebstrap"
    make_stand_in || die "the stand-in could not be made; install mmdebstrap, or name a base image with BASE"
    base=$stand_in
}

# Sets the options that let pip out: secrets, so that nothing of them stays in the image.
find_secrets() {
    [ -f "$CA_BUNDLE" ] || CA_BUNDLE=/dev/null
    if [ -z "${PIP_CONFIG:-}" ]; then
        PIP_CONFIG=$scratch/pip.conf
        printf '[global]\n' >"$PIP_CONFIG"
        [ "$CA_BUNDLE" = /dev/null ] || echo 'cert = /run/ca.pem' >>"$PIP_CONFIG"
    fi
}

builder=$(find_builder) || {
    try_apt buildah && builder=buildah
} || die "no image builder works here; install buildah, podman or docker (apt-get install buildah)"
find_base
find_secrets
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' pilot/__init__.py)
build --build-arg "BASE=$base" --build-arg "VERSION=$version" \
    --secret "id=ca,src=$CA_BUNDLE" --secret "id=pip,src=$PIP_CONFIG" \
    --tag "$name:${TAG:-$version}" --tag "$name:dev" .
say "built $name:${TAG:-$version} and $name:dev with $builder on $base"
