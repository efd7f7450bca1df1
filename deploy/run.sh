#!/usr/bin/env bash
# Protects a gallery on a rented machine, then ends the machine: on success, on failure and on a signal.
#
#   run.sh [ARGUMENTS OF mist protect]      default: $MIST_INPUT --out $MIST_OUT
#
#   MIST_INPUT, MIST_OUT       /workspace/gallery, /workspace/protected
#   MIST_CHECKPOINT            a file on the mounted volume (/workspace/models/checkpoint.safetensors)
#   MIST_CHECKPOINT_URL        fetched to that file where it is not there yet
#   MIST_CHECKPOINT_SHA256     which it must then have
#   MIST_LOG                   what was said, kept beside the results (/workspace/mist.log)
# and those of machine.sh.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/machine.sh
. "$here/machine.sh"

: "${MIST_INPUT:=/workspace/gallery}" "${MIST_OUT:=/workspace/protected}" "${MIST_LOG:=/workspace/mist.log}"
export MIST_CHECKPOINT="${MIST_CHECKPOINT:-/workspace/models/checkpoint.safetensors}"

be_mist "$@"
guard_machine
if [ -n "${MIST_CHECKPOINT_URL:-}" ]; then
    start "$here/fetch-checkpoint.sh" "$MIST_CHECKPOINT_URL" "$MIST_CHECKPOINT" "${MIST_CHECKPOINT_SHA256:-}"
    wait_for_child || exit
fi
[ $# -gt 0 ] || set -- "$MIST_INPUT" --out "$MIST_OUT"
mkdir -p "$(dirname "$MIST_LOG")"
start "${MIST_COMMAND:-mist}" protect "$@" > >(tee -a "$MIST_LOG") 2> >(tee -a "$MIST_LOG" >&2)
wait_for_child
status=$?
say "mist protect ended with $status"
exit "$status"
