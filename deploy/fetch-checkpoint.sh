#!/usr/bin/env bash
# fetch-checkpoint.sh URL FILE [SHA256]: a download that goes on where it was interrupted; its checksum is shown.
set -euo pipefail
url=$1 file=$2 expected=${3:-} part=$2.part

say() {
    printf 'mist: %s\n' "$*" >&2
}

# curl's own retries would begin where this attempt began, not where it broke off.
fetch() {
    local attempt status
    for ((attempt = 0; ; attempt++)); do
        status=0
        curl --fail --location --show-error --silent --connect-timeout 30 --speed-limit 1024 --speed-time 60 \
            --continue-at - --output "$part" "$url" || status=$?
        case $status in
        0 | 22 | 33) return "$status" ;; # done; the server says no; it cannot go on in the middle
        esac
        ((attempt < ${MIST_FETCH_RETRIES:-10})) || return "$status"
        sleep "${MIST_FETCH_PAUSE:-5}"
    done
}

if [ ! -e "$file" ]; then
    mkdir -p "$(dirname "$file")"
    [ ! -e "$part" ] || say "going on at $(wc -c <"$part") bytes"
    status=0
    fetch || status=$?
    if [ "$status" = 33 ]; then # the server cannot go on in the middle
        rm -f "$part"
        status=0
        fetch || status=$?
    fi
    if [ "$status" != 0 ]; then
        say "the checkpoint could not be fetched (curl: $status); what came so far is kept in $part"
        exit 1
    fi
    mv "$part" "$file"
fi
found=$(sha256sum "$file" | cut -d ' ' -f 1)
say "checkpoint $file, $(wc -c <"$file") bytes, sha256 $found"
if [ -n "$expected" ] && [ "$found" != "$expected" ]; then
    mv "$file" "$file.wrong"
    say "expected sha256 $expected: it is another file, or damaged, and was moved to $file.wrong"
    exit 1
fi
