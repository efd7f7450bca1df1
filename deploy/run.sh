#!/usr/bin/env bash
# Protects a gallery on a rented machine, then ends the machine: on success, on failure and on a signal.
#
#   run.sh [ARGUMENTS OF mist protect]      default: $MIST_INPUT --out $MIST_OUT
#
#   MIST_INPUT, MIST_OUT       /workspace/gallery, /workspace/protected
#   MIST_CHECKPOINT            a file on the mounted volume (/workspace/models/checkpoint.safetensors)
#   MIST_CHECKPOINT_URL        fetched to that file where it is not there yet
#   MIST_CHECKPOINT_SHA256     which it must then have
#   MIST_DOCTOR=0              do not ask `mist doctor` whether the device works before a picture is taken
#   MIST_LOG                   what was said, kept beside the results (/workspace/mist.log)
# and those of machine.sh.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/machine.sh
. "$here/machine.sh"

: "${MIST_INPUT:=/workspace/gallery}" "${MIST_OUT:=/workspace/protected}" "${MIST_LOG:=/workspace/mist.log}"
export MIST_CHECKPOINT="${MIST_CHECKPOINT:-/workspace/models/checkpoint.safetensors}"

logged() {
    start "${MIST_COMMAND:-mist}" "$@" > >(tee -a "$MIST_LOG") 2> >(tee -a "$MIST_LOG" >&2)
    wait_for_child
}

# check_device ARGUMENTS OF mist protect...: whether the device that they name works, where it is this machine's.
check_device() {
    local word before='' device=()
    [ "${MIST_DOCTOR:-1}" = 1 ] || return 0
    for word in "$@"; do
        case "$before $word" in
        *" --engine=comfyui" | "--engine comfyui" | *" --address" | *" --address="*) return 0 ;;
        *" --device="*) device=("$word") ;;
        "--device "*) device=(--device "$word") ;;
        esac
        before=$word
    done
    logged doctor "${device[@]}"
}

be_mist "$@"
guard_machine
if [ -n "${MIST_CHECKPOINT_URL:-}" ]; then
    start "$here/fetch-checkpoint.sh" "$MIST_CHECKPOINT_URL" "$MIST_CHECKPOINT" "${MIST_CHECKPOINT_SHA256:-}"
    wait_for_child || exit
fi
[ $# -gt 0 ] || set -- "$MIST_INPUT" --out "$MIST_OUT"
mkdir -p "$(dirname "$MIST_LOG")"
check_device "$@" || {
    status=$?
    say "mist doctor ended with $status: no picture was taken, and none was touched"
    exit "$status"
}
logged protect "$@"
status=$?
say "mist protect ended with $status"
exit "$status"
