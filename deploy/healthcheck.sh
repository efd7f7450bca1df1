#!/bin/sh
# Is the start script's child alive, and does the web page, where there is one, answer?
set -eu
kill -0 "$(cat "${MIST_RUN_DIR:-/tmp/mist}/child.pid")"
[ -z "${MIST_HEALTH_URL:-}" ] || curl --fail --silent --output /dev/null --max-time 10 "$MIST_HEALTH_URL"
