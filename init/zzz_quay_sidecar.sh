#!/bin/sh
# Runs last in Quay's conf/init, after the files that it works on were generated. Quay's start must
# not depend on us: whatever happens here, Quay goes on without us, so this always exits 0.
# Settings: QUAY_SIDECAR_HOME, the folder with bin/quay. QUAY_SIDECAR_DISABLED=true leaves us out.

say() {
    echo "quay-sidecar: $*"
}

home=${QUAY_SIDECAR_HOME:-/opt/quay-sidecar}
quay=$home/bin/quay

if [ "${QUAY_SIDECAR_DISABLED:-false}" = true ]; then
    say 'left out, as QUAY_SIDECAR_DISABLED says'
    exit 0
fi
if [ ! -x "$quay" ]; then
    say "$quay is missing or cannot be run; Quay starts without it"
    exit 0
fi
# A limit from outside as well, where there is one: a hang would keep Quay from starting.
limit=
if command -v timeout >/dev/null 2>&1; then
    limit='timeout -k 5 60'
fi
# shellcheck disable=SC2086 # two words on purpose
if ! $limit "$quay" bundle apply --hook; then
    # It exits 0 on all that it puts right itself: this is a crash, perhaps between two files.
    say 'ended badly; taking out what it may have left'
    # shellcheck disable=SC2086
    $limit "$quay" bundle revert || say 'that failed too; Quay starts with the files as they are'
fi
exit 0
