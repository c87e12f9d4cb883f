#!/usr/bin/env bash
# The baseline: the git credential helper that this project replaces, written anew from what it does.
#
# usage: molecule-git-token-helper.sh get|store|erase
#
# A token is cached for 50 minutes, whatever its expiry says; then the platform is asked, then the
# environment. Nothing found: exit 1, and git asks its next helper.
set -euo pipefail

cache_dir=$HOME/.molecule-token-cache
cache_file=$cache_dir/token
cache_stamp=$cache_dir/fetched_at
cache_seconds=3000

read_cache() {
    [[ -f $cache_file && -f $cache_stamp ]] || return 1
    local now fetched_at
    now=$(date +%s)
    fetched_at=$(cat "$cache_stamp")
    ((now - fetched_at < cache_seconds)) || return 1
    cat "$cache_file"
}

write_cache() {
    mkdir -p "$cache_dir"
    chmod 700 "$cache_dir"
    (umask 077 && printf '%s' "$1" >"$cache_file" && date +%s >"$cache_stamp")
}

ask_platform() {
    local url=${PLATFORM_URL:-http://host.docker.internal:8080} path=/admin/github-installation-token
    [[ -z ${WORKSPACE_ID:-} ]] || path=/workspaces/$WORKSPACE_ID/github-installation-token
    local bearer_file=${CONFIGS_DIR:-/configs}/.auth_token bearer answer
    [[ -s $bearer_file ]] || return 1
    bearer=$(cat "$bearer_file")
    answer=$(curl -fsS --max-time 10 -H "Authorization: Bearer $bearer" "$url$path") || return 1
    printf '%s' "$answer" | sed -n 's/.*"token" *: *"\([^"]*\)".*/\1/p'
}

find_token() {
    local token
    if token=$(read_cache) && [[ -n $token ]]; then
        printf '%s' "$token"
        return
    fi
    if token=$(ask_platform) && [[ -n $token ]]; then
        write_cache "$token"
        printf '%s' "$token"
        return
    fi
    token=${GITHUB_TOKEN:-${GH_TOKEN:-}}
    [[ -n $token ]] || return 1
    printf '%s' "$token"
}

case ${1:-} in
    get)
        token=$(find_token) || exit 1
        printf 'username=x-access-token\npassword=%s\n\n' "$token"
        ;;
    store | erase) ;;
    *) exit 1 ;;
esac
