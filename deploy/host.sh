#!/usr/bin/env bash
# host.sh comfyui|webui [ARGUMENTS OF THE HOST]: the host behind a log-in, on a rented machine that ends when nobody works with it.
#
#   MIST_USER, MIST_PASSWORD   the log-in; without them nothing starts
#   MIST_IDLE_MINUTES          end the machine after so long without a request, a queue or a busy GPU (30)
#   MIST_HOST_DIR              where the host is
#   MIST_HOST_PYTHON           the Python that it runs with (python3)
#   MIST_CHECKPOINT            a file on the mounted volume, linked into the host's checkpoints
#   MIST_CHECKPOINT_URL, MIST_CHECKPOINT_SHA256, MIST_MAX_HOURS and so on: as for run.sh and machine.sh
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/machine.sh
. "$here/machine.sh"

kind=${1:-}
shift || true
: "${MIST_IDLE_MINUTES:=30}" "${MIST_PORT:=8080}" "${MIST_INNER_PORT:=18188}" "${MIST_IDLE_CHECK_SECONDS:=15}"
: "${MIST_HOST_DIR:=/opt/host}" "${MIST_HOST_PYTHON:=python3}"
checkpoint=${MIST_CHECKPOINT:-/workspace/models/checkpoint.safetensors}

main() {
    be_mist "$kind" "$@"
    guard_machine
    require_log_in
    idle=$(seconds_of "$MIST_IDLE_MINUTES" 60 MIST_IDLE_MINUTES) || exit 1
    if [ -n "${MIST_CHECKPOINT_URL:-}" ]; then
        start "$here/fetch-checkpoint.sh" "$MIST_CHECKPOINT_URL" "$checkpoint" "${MIST_CHECKPOINT_SHA256:-}"
        wait_for_child || exit
    fi
    link_checkpoint
    cd "$MIST_HOST_DIR" || exit 1
    start_door
    start "${host_command[@]}"
    serve_until_idle
}

require_log_in() {
    local password=${MIST_PASSWORD:-}
    if [ -z "${MIST_USER:-}" ] || [ ${#password} -lt 10 ]; then
        say "set MIST_USER, and MIST_PASSWORD of 10 characters or more: a page on the internet needs a log-in"
        exit 1
    fi
}

case $kind in
comfyui)
    checkpoints=$MIST_HOST_DIR/models/checkpoints
    host_command=("$MIST_HOST_PYTHON" main.py --listen 127.0.0.1 --port "$MIST_INNER_PORT" "$@")
    ;;
webui)
    checkpoints=$MIST_HOST_DIR/models/Stable-diffusion
    host_command=("$MIST_HOST_PYTHON" launch.py --server-name 127.0.0.1 --port "$MIST_INNER_PORT" "$@")
    ;;
*)
    say "expected comfyui or webui, found '$kind'"
    exit 1
    ;;
esac

link_checkpoint() {
    mkdir -p "$checkpoints"
    if [ -e "$checkpoint" ]; then
        ln -sfn "$checkpoint" "$checkpoints/$(basename "$checkpoint")"
    else
        say "there is no $checkpoint: the host starts without it"
    fi
}

# nginx asks for the log-in and writes down each request that passed it: strangers at the door keep nothing awake.
start_door() {
    requests=$MIST_RUN_DIR/requests.log
    : >"$requests"
    (umask 077 && printf '%s:%s\n' "$MIST_USER" "$(openssl passwd -6 -stdin <<<"$MIST_PASSWORD")" >"$MIST_RUN_DIR/users")
    unset MIST_PASSWORD
    local user=
    [ "$(id -u)" != 0 ] || user='user root;' # else nginx gives its rights up and cannot read the log-in
    sed -e "s|@USER@|$user|" -e "s|@RUN@|$MIST_RUN_DIR|g" -e "s|@PORT@|$MIST_PORT|g" -e "s|@INNER@|$MIST_INNER_PORT|g" \
        "$here/door.conf" >"$MIST_RUN_DIR/door.conf"
    nginx -c "$MIST_RUN_DIR/door.conf" -e "$MIST_RUN_DIR/door.log" &
    door=$!
    also_stop=("$door")
}

serve_until_idle() {
    local last seen=0 found
    last=$(now)
    while kill -0 "$child" 2>/dev/null; do
        sleep "$MIST_IDLE_CHECK_SECONDS" &
        wait $!
        kill -0 "$door" 2>/dev/null || {
            say "nginx ended: see $MIST_RUN_DIR/door.log"
            exit 1
        }
        found=$(wc -c <"$requests")
        if [ "$found" != "$seen" ] || has_queue || has_busy_gpu; then
            last=$(now)
        elif (($(now) - last >= idle)); then
            say "nobody worked for $MIST_IDLE_MINUTES minutes"
            stop_child
            exit 0
        fi
        seen=$found
    done
    wait_for_child
    exit
}

has_queue() {
    [ "$kind" = comfyui ] || return 1
    curl --fail --silent --max-time 10 "http://127.0.0.1:$MIST_INNER_PORT/queue" |
        "$MIST_HOST_PYTHON" -c 'import json, sys; sys.exit(not any(json.load(sys.stdin).values()))' 2>/dev/null
}

has_busy_gpu() {
    command -v nvidia-smi >/dev/null || return 1
    nvidia-smi --query-gpu=utilization.gpu --format=csv,noheader,nounits 2>/dev/null |
        awk '$1 > 5 { busy = 1 } END { exit !busy }'
}

main "$@"
