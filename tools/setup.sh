#!/bin/sh
# Create .venv and install thermolearn there with the pinned dependencies; called by the Makefile.
#
#   tools/setup.sh test    what `make demo` and `make test` need
#   tools/setup.sh dev     all of it: documentation, linter, type checker, browser driver
#
# Does nothing, and starts no pip, when pyproject.toml and the constraint files are unchanged since
# the last complete installation. PYTHON names the interpreter; pip's own settings (PIP_INDEX_URL,
# PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, proxies, ...) are passed on as they are.
set -eu
cd "$(dirname "$0")/.."
level=${1:-test}
oracle=tests/oracle/constraints-oracle.txt
peers=tests/oracle/constraints-peers.txt
stamp=.venv/.installed-$level

fail() {
    echo "thermolearn: $*" >&2
    exit 1
}

# The checkout's own path is part of it: an environment does not survive being moved.
fingerprint() {
    pwd
    cat pyproject.toml constraints.txt "$oracle" "$peers"
}

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        command -v "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON is not a command"
        new_enough "$PYTHON" || fail "PYTHON=$PYTHON is $("$PYTHON" --version 2>&1)," \
            "but Python 3.11 or newer is needed"
        echo "$PYTHON"
        return
    fi
    for name in python3 python3.13 python3.12 python3.11 python; do
        if command -v "$name" >/dev/null && new_enough "$name"; then
            echo "$name"
            return
        fi
    done
    found=$(command -v python3 >/dev/null && python3 --version 2>&1 || echo none)
    fail "Python 3.11 or newer is needed, found: $found." \
        "Install one and name it: make demo PYTHON=/path/to/python3.11"
}

create_environment() {
    python=$(find_python)
    "$python" -c 'import ensurepip, venv' 2>/dev/null || fail "$python has no venv module." \
        "On Debian and Ubuntu: apt-get install python3-venv"
    echo "thermolearn: creating .venv with $("$python" --version 2>&1)"
    rm -rf .venv
    "$python" -m venv .venv || {
        rm -rf .venv
        fail "$python -m venv failed; see the lines above"
    }
}

pip_install() {
    .venv/bin/python -m pip install --no-input --disable-pip-version-check --quiet "$@" ||
        fail "the installation failed; see pip's lines above. The first installation needs a" \
            "network or a local package folder (PIP_INDEX_URL, PIP_FIND_LINKS); run make again to go on"
}

if [ -f "$stamp" ] && fingerprint | cmp -s - "$stamp" && new_enough .venv/bin/python; then
    exit 0
fi
# An environment made elsewhere, by an old Python or half-made is not worth repairing.
if ! new_enough .venv/bin/python || ! .venv/bin/python -m pip --version 2>/dev/null | grep -qF "$PWD/"; then
    create_environment
fi
echo "thermolearn: installing the pinned dependencies (once; torch is large)"
rm -f "$stamp"
# torch by itself and first: a range elsewhere could otherwise pull another, larger build of it.
pip_install -c constraints.txt torch
pip_install -c constraints.txt hatchling editables
pip_install -c constraints.txt --no-build-isolation -e ".[$level]"
# Without dependencies: curvlinops asks for torchvision, which it does not use here and which breaks
# other imports when its build does not match torch's.
pip_install --no-deps -r "$oracle"
if [ "$level" = dev ]; then pip_install --no-deps -r "$peers"; fi
fingerprint >"$stamp"
# The larger installation contains the smaller one.
if [ "$level" = dev ]; then fingerprint >.venv/.installed-test; fi
