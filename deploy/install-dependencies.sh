#!/bin/sh
# Installs the Debian packages that attestd needs on Debian 12 or Ubuntu 24.04, and only those that are missing.
#
#   deploy/install-dependencies.sh runtime   what `make run` needs: a software TPM, libtss2 and what builds its binding
#   deploy/install-dependencies.sh tests     also what the tests talk to: nginx, OpenSSL's tpm2 provider, a resource manager,
#                                             and the browser that opens the console (certutil shows it our root)
set -eu

runtime="swtpm swtpm-tools libtss2-dev libtss2-tcti-swtpm0 gcc pkg-config openssl"
tests="tpm2-openssl tpm2-abrmd libtss2-tcti-tabrmd0 dbus tpm2-tools nginx-light curl postgresql softhsm2 wrk chromium libnss3-tools"

case "${1:-}" in
runtime) wanted=$runtime ;;
tests) wanted="$runtime $tests" ;;
*)
    echo "usage: $0 runtime|tests" >&2
    exit 2
    ;;
esac

installed() {
    dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'install ok installed'
}

# A distribution's own Python brings neither its headers nor ensurepip; one that was built from source has both.
python=${PYTHON:-python3}
"$python" -c 'import ensurepip' 2>/dev/null || wanted="$wanted python3-venv"
"$python" -c 'import os, sysconfig, sys
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || wanted="$wanted python3-dev"

missing=""
for package in $wanted; do
    # nginx comes in flavours; any one will do.
    if [ "$package" = nginx-light ] && command -v nginx >/dev/null 2>&1; then continue; fi
    # Ubuntu has Chromium as a snap alone; whichever is there will do, and without one the browser's tests are skipped.
    if [ "$package" = chromium ]; then
        if command -v chromium >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1; then continue; fi
        if grep -qs '^ID=ubuntu' /etc/os-release; then continue; fi
    fi
    # Ubuntu 24.04 renamed this library for 64-bit time; libtss2-dev depends on the right one.
    if [ "$package" = libtss2-tcti-swtpm0 ] && installed libtss2-tcti-swtpm0t64; then continue; fi
    installed "$package" || missing="$missing $package"
done
[ -z "$missing" ] && exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "This is not Debian or Ubuntu. Install the equivalents of:$missing" >&2
    exit 1
fi
as_root=""
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "These packages are missing and there is no sudo. As root: apt-get install$missing" >&2
        exit 1
    fi
    as_root="sudo"
fi
echo "Installing Debian packages:$missing"
$as_root apt-get update -qq
# Ubuntu's name for the renamed library, where Debian's is not known.
case " $missing " in *" libtss2-tcti-swtpm0 "*)
    apt-cache show libtss2-tcti-swtpm0 >/dev/null 2>&1 ||
        missing=$(echo "$missing" | sed 's/libtss2-tcti-swtpm0/libtss2-tcti-swtpm0t64/')
    ;;
esac
# The tests start a PostgreSQL of their own; nobody asked for one that runs all the time.
case " $missing " in *" postgresql "*)
    $as_root mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] ||
        echo "create_main_cluster = false" | $as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
    ;;
esac
# shellcheck disable=SC2086  # a list of words on purpose
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
