# shellcheck shell=bash
# What the start scripts share: one guarded child, and a rented machine that is ended whatever happens.
#
#   MIST_STAY=1            do not end the machine
#   MIST_MAX_HOURS         end it after so many hours at the latest (12)
#   MIST_END               on RunPod: stop (the pod's disk stays, and is paid for) or remove (nothing stays, but for
#                          network volumes); remove where a network volume is mounted, else stop
#   MIST_END_COMMAND       anywhere else: the command that ends the machine

: "${MIST_RUN_DIR:=/tmp/mist}" "${MIST_MAX_HOURS:=12}" "${MIST_WATCH_SECONDS:=5}" "${MIST_GRACE_SECONDS:=30}"
: "${MIST_END_TRIES:=60}" "${MIST_END_RETRY_SECONDS:=60}"
child=
also_stop=()

say() {
    printf 'mist: %s\n' "$*" >&2
}

# seconds_of NUMBER UNIT_IN_SECONDS NAME: whole seconds, also of a fraction; fails for what is no positive number.
seconds_of() {
    if [[ ! $1 =~ ^[0-9]+([.][0-9]+)?$ ]]; then
        say "$3: expected a number, found '$1'"
        return 1
    fi
    awk -v number="$1" -v unit="$2" 'BEGIN { seconds = int(number * unit); print seconds < 1 ? 1 : seconds }'
}

# Seconds that no setting of the clock moves, as SECONDS would.
now() {
    local up
    read -r up _ </proc/uptime
    echo "${up%.*}"
}

end_machine() {
    if [ "${MIST_STAY:-0}" = 1 ]; then
        say "the machine stays on (MIST_STAY=1) and goes on costing money"
    elif [ -n "${RUNPOD_POD_ID:-}" ] && command -v runpodctl >/dev/null; then
        local how=stop
        [ -n "${RUNPOD_VOLUME_ID:-}" ] && how=remove
        until_it_works runpodctl "${MIST_END:-$how}" pod "$RUNPOD_POD_ID"
    elif [ -n "${MIST_END_COMMAND:-}" ]; then
        until_it_works sh -c "$MIST_END_COMMAND"
    else
        say "there is neither runpodctl nor MIST_END_COMMAND: only this container ends, not the machine"
    fi
}

until_it_works() {
    local attempt
    for ((attempt = 1; attempt <= MIST_END_TRIES; attempt++)); do
        if "$@"; then
            say "asked for the end of this machine: $*"
            return 0
        fi
        say "attempt $attempt failed: $*"
        sleep "$MIST_END_RETRY_SECONDS"
    done
    say "THE MACHINE IS STILL ON AND COSTS MONEY: end it by hand"
    return 1
}

# Where the container was started as root, to give /workspace to the user mist: go on as that user.
be_mist() {
    if [ "$(id -u)" = 0 ] && id mist >/dev/null 2>&1 && [ "${MIST_KEEP_ROOT:-0}" != 1 ]; then
        [ ! -d /workspace ] || chown mist: /workspace 2>/dev/null || say "/workspace cannot be given to the user mist"
        exec setpriv --reuid=mist --regid=mist --init-groups "$0" "$@"
    fi
}

# From here on the machine ends when this script does: in any way, by any signal, and at the latest after the limit.
guard_machine() {
    local limit
    mkdir -p "$MIST_RUN_DIR"
    trap finish EXIT
    trap 'pass_on TERM' TERM
    trap 'pass_on INT' INT
    trap 'pass_on HUP' HUP
    limit=$(seconds_of "$MIST_MAX_HOURS" 3600 MIST_MAX_HOURS) || exit 1
    watch_over $$ "$limit" &
    watcher=$!
}

# A process of its own, so that it outlives a killed or stuck script.
watch_over() {
    local script=$1 end=$(($(now) + $2))
    trap - EXIT TERM INT HUP
    while kill -0 "$script" 2>/dev/null && (($(now) < end)); do
        sleep "$MIST_WATCH_SECONDS"
    done
    if kill -0 "$script" 2>/dev/null; then
        say "the limit of $MIST_MAX_HOURS hours is reached"
        kill -TERM "$script"
        sleep "$((MIST_GRACE_SECONDS + MIST_WATCH_SECONDS))"
        kill -0 "$script" 2>/dev/null || return 0
    fi
    end_machine
}

finish() {
    local status=$?
    trap - EXIT
    [ "$BASHPID" = $$ ] || exit "$status" # a watcher that was ended before it had given up these traps
    trap '' TERM INT HUP
    stop_child
    [ ${#also_stop[@]} = 0 ] || kill "${also_stop[@]}" 2>/dev/null
    end_machine
    [ -z "${watcher:-}" ] || kill "$watcher" 2>/dev/null
    exit "$status"
}

pass_on() {
    say "stopping ($1)"
    stopping=1
    [ -n "$child" ] && kill -TERM "$child" 2>/dev/null
    [ -n "$child" ] || exit 143
    kill_later "$child" &
}

kill_later() {
    trap - EXIT TERM INT HUP
    sleep "$MIST_GRACE_SECONDS"
    kill -KILL "$1" 2>/dev/null
}

stop_child() {
    if [ -n "$child" ] && kill -TERM "$child" 2>/dev/null; then
        kill_later "$child" &
        wait "$child"
    fi
    child=
}

# start COMMAND...: as the one child that signals are passed on to and that the health check asks about.
start() {
    [ -z "${stopping:-}" ] || exit 143
    "$@" &
    child=$!
    echo "$child" >"$MIST_RUN_DIR/child.pid"
}

# The child's exit status, however often a signal interrupts the waiting.
wait_for_child() {
    local status
    while true; do
        wait "$child"
        status=$?
        kill -0 "$child" 2>/dev/null || break
    done
    child=
    return "$status"
}
