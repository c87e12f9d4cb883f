#!/bin/sh
# molecule-gh-token-refresh.sh: the old name, on top of a molecule-tokenfs mount
#
# Workspace images start a daemon of this name, and start it again 30 seconds after it ended. This one
# takes its place: it mounts the tokens unless they are mounted already, calls `_refresh_gh` of
# molecule-git-token-helper.sh, which must lie beside it, and ends when the mount does, with its exit
# code. The mount refreshes by itself; what comes back every $TOKEN_REFRESH_INTERVAL_SEC is there for
# what somebody changed meanwhile, as `gh auth login` does.
#
#   TOKEN_REFRESH_INTERVAL_SEC       2700
#   TOKEN_REFRESH_INITIAL_DELAY_SEC  60: until then the workspace has registered

# Drop the caller's shell options (sh -x, SHELLOPTS). This script holds no token, but the scripts that it
# runs do.
set +aCefuvx

helper=$(dirname "$0")/molecule-git-token-helper.sh
interval=${TOKEN_REFRESH_INTERVAL_SEC:-2700}
delay=${TOKEN_REFRESH_INITIAL_DELAY_SEC:-60}
# Between two looks whether the mount is still there.
look_every=5
daemon=
sleeping=

log() {
    printf '[molecule-gh-token-refresh] %s %s\n' "$(date -u '+%Y-%m-%dT%H:%M:%SZ')" "$*" >&2
}

# Ends what was started; the mount unmounts itself.
# shellcheck disable=SC2317 # the traps call it
stop() {
    trap - TERM INT HUP
    for process in $sleeping $daemon; do
        kill "$process" 2>/dev/null
    done
    [ -z "$daemon" ] || wait "$daemon"
    exit "$1"
}

is_mounted() {
    [ -f "$mount/status.json" ] && { [ -z "$daemon" ] || kill -0 "$daemon" 2>/dev/null; }
}

# pause SECONDS: false when the mount ends meanwhile.
pause() {
    left=$1
    while [ "$left" -gt 0 ]; do
        step=$look_every
        [ "$left" -ge "$step" ] || step=$left
        # In the background: a signal would wait for its end otherwise.
        sleep "$step" &
        sleeping=$!
        wait "$sleeping"
        sleeping=
        left=$((left - step))
        is_mounted || return 1
    done
}

# refresh NAME
refresh() {
    if sh "$helper" _refresh_gh 2>&1; then
        log "${1}refresh succeeded"
    else
        log "${1}refresh failed (will retry in ${interval}s)"
    fi
}

trap 'stop 143' TERM
trap 'stop 130' INT
# An entrypoint starts it with nohup: then it stays ignored.
trap 'stop 129' HUP

log "starting (interval=${interval}s, initial_delay=${delay}s)"
if mount=$(sh "$helper" _mountpoint); then
    log "the tokens are mounted at $mount"
elif command -v molecule-tokenfs >/dev/null 2>&1; then
    molecule-tokenfs mount "$mount" &
    daemon=$!
    # As long as it takes, at most ten seconds.
    tries=100
    until is_mounted || [ $tries -eq 0 ] || ! kill -0 "$daemon" 2>/dev/null; do
        sleep 0.1
        tries=$((tries - 1))
    done
else
    log 'molecule-tokenfs is not installed'
    exit 127
fi

if pause "$delay"; then
    log 'initial token refresh'
    refresh 'initial '
    while pause "$interval"; do
        log 'periodic token refresh'
        refresh ''
    done
fi

code=1
if [ -n "$daemon" ]; then
    # An orderly end is none here: somebody starts us again for what comes after.
    kill "$daemon" 2>/dev/null
    wait "$daemon"
    code=$?
fi
log "the mount has ended (exit code $code)"
exit "$code"
