#!/bin/sh
# The start contract of claude-code's /entrypoint.sh with its own line wired: as root it prepares the
# volumes and comes back as the user agent, who becomes the runtime. The script's own business (git
# helper, refresh daemon, first login) is left out: `run` has taken it over.
set -eu

if [ "$(id -u)" = 0 ]; then
    mkdir -p /configs
    chown agent:agent /configs
    exec molecule-tokenfs run --user agent -- "$0" "$@"
fi

exec molecule-runtime "$@"
