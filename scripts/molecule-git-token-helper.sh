#!/bin/sh
# molecule-git-token-helper.sh: the old name, on top of a molecule-tokenfs mount
#
# Workspace images copy a credential helper of this name to /app/scripts and call it. This one takes
# its place: the same actions, exit codes and output, but the token is that of the mount, so there is
# no cache that could serve a dead one. `molecule-tokenfs` must be in PATH.
#
# usage: molecule-git-token-helper.sh [ACTION]
#
#   get                what git asks for (the default): username, password and an empty line. Where the
#                      mount makes tokens on demand and git says the path (credential.useHttpPath),
#                      the token is that of the repository alone
#   store              nothing
#   erase              tells the mount that the token which git hands over was refused
#   _fetch_token       prints the token
#   _refresh_gh        fetches now, and makes ~/.gh_token and gh's own configuration links to the mount
#   _invalidate_cache  fetches now: after a 401
#   _mountpoint        prints where the tokens are; 1 when nothing is mounted there yet
#
# The mount is $MOLECULE_TOKENFS_MOUNTPOINT, else the first of /run/molecule/token,
# $XDG_RUNTIME_DIR/molecule/token and ~/.molecule-token-cache/token. Where there is none it is made. Only
# where that fails GITHUB_TOKEN, else GH_TOKEN is the answer, as before; and 1 where neither is set.

# Drop the caller's shell options (sh -x, SHELLOPTS): xtrace and verbose would print the token, and
# allexport would export it to every child.
set +aCefuvx

HOME=${HOME:-/home/agent}
export HOME
cache=$HOME/.molecule-token-cache

say() {
    printf '[molecule-git-token-helper] %s\n' "$*" >&2
}

is_mounted() {
    # Files instead of a mount have no `token` while there is none.
    [ -f "$mount/token" ] || [ -f "$mount/status.json" ]
}

# Sets `mount` to where the tokens are, or are to be; false for the latter.
find_mount() {
    runtime=
    [ -z "${XDG_RUNTIME_DIR-}" ] || runtime=$XDG_RUNTIME_DIR/molecule/token
    if [ -n "${MOLECULE_TOKENFS_MOUNTPOINT-}" ]; then
        mount=$MOLECULE_TOKENFS_MOUNTPOINT
        is_mounted
        return
    fi
    for mount in /run/molecule/token "$runtime" "$cache/token"; do
        [ -n "$mount" ] && is_mounted && return 0
    done
    if [ "$(id -u)" = 0 ]; then
        mount=/run/molecule/token
    elif [ -d "${XDG_RUNTIME_DIR-}" ]; then
        mount=$runtime
    fi
    return 1
}

# Finds the mount, or makes it.
need_mount() {
    find_mount && return 0
    if ! command -v molecule-tokenfs >/dev/null 2>&1; then
        say 'nothing is mounted, and molecule-tokenfs is not installed'
        return 1
    fi
    # Where both the log and what stands in its way can be found; git's standard error is not for that.
    mkdir -p "$cache" && chmod 700 "$cache"
    molecule-tokenfs mount --background --log-file "$cache/mount.log" "$mount" 2>"$cache/mount.err" ||
        is_mounted && return 0
    say "the tokens cannot be mounted at $mount: molecule-tokenfs doctor says why"
    return 1
}

# Reads what git asks, and sets `mount` to the directory of the repository that it is about, if git says
# one and the mount makes a token for it.
narrow() {
    # Somebody at a terminal asks nothing, and without tokens on demand there is nothing to choose.
    [ ! -t 0 ] && [ -d "$mount/repos" ] || return 0
    path=
    while IFS= read -r line && [ -n "$line" ]; do
        case $line in path=*) path=${line#*=} ;; esac
    done
    path=${path%%.git/*}
    path=${path%/}
    path=${path%/info/lfs}
    repository=${path##*/}
    owner=${path%/*}
    [ "$owner" != "$path" ] || return 0
    owner=${owner##*/}
    case $owner/$repository in
    /* | */ | *[!A-Za-z0-9._/-]* | */. | */.. | ./* | ../*) return 0 ;;
    esac
    [ ! -e "$mount/repos/$owner/$repository/token" ] || mount=$mount/repos/$owner/$repository
}

# Prints the token: that of the mount, or, after `get`, that of the repository which git names.
fetch() {
    if need_mount; then
        [ "${1-}" != get ] || narrow
        # Files instead of a mount are there once a token is.
        [ -e "$mount/token" ] || molecule-tokenfs wait --for 10s "$mount" >/dev/null 2>&1
        # cat's message comes along, so that the reason is known without a second open.
        if token=$(LC_ALL=C cat "$mount/token" 2>&1) && [ -n "$token" ]; then
            printf '%s\n' "$token"
            return 0
        fi
        # The mount knows the token of the environment, too, and when that is dead.
        say "no token: ${token##*: }. What is wrong and what to do: molecule-tokenfs status"
        return 1
    fi
    token=${GITHUB_TOKEN:-${GH_TOKEN:-}}
    if [ -n "$token" ]; then
        say 'API unreachable, falling back to env GITHUB_TOKEN'
        printf '%s\n' "$token"
        return 0
    fi
    say 'all token sources exhausted'
    return 1
}

# link TARGET NAME: makes NAME a symbolic link, whatever file it was, without a moment in between.
link() {
    ln -sf "$1" "$2.tmp" && mv -f "$2.tmp" "$2"
}

# Whether the hosts.yml of gh holds a login of the user's own.
is_own_login() {
    [ -f "$1" ] && [ ! -L "$1" ] && grep -q 'oauth_token: *["'\'']*\(gh[pou]_\|github_pat_\)' "$1"
}

# Makes gh read the mount, as far as its own configuration goes.
wire_gh() {
    directory=${GH_CONFIG_DIR:-${XDG_CONFIG_HOME:-$HOME/.config}/gh}
    mkdir -p "$directory" || return
    # A file, and no link: gh also writes to it. It holds no secret.
    [ -e "$directory/config.yml" ] || cat "$mount/gh/config.yml" >"$directory/config.yml"
    is_own_login "$directory/hosts.yml" || link "$mount/gh/hosts.yml" "$directory/hosts.yml"
}

# Whether gh would take a token from the environment that is dead after an hour.
is_shadowed() {
    case ${GH_TOKEN:-${GITHUB_TOKEN-}} in ghs_*) return 0 ;; esac
    return 1
}

refresh_gh() {
    if ! need_mount; then
        say '_refresh_gh: API fetch failed'
        return 1
    fi
    link "$mount/token" "$HOME/.gh_token"
    wire_gh 2>/dev/null || say '_refresh_gh: gh auth login failed (non-fatal)'
    if is_shadowed; then
        say 'gh takes the token of the environment first, also when it is dead: molecule-tokenfs setup gh'
    fi
    if ! molecule-tokenfs refresh "$mount" >/dev/null; then
        say '_refresh_gh: API fetch failed'
        return 1
    fi
    say '_refresh_gh: token refreshed successfully'
}

case ${1:-get} in
get)
    token=$(fetch get) || exit 1
    printf 'username=x-access-token\npassword=%s\n\n' "$token"
    ;;
store) ;;
erase)
    # Somebody at a terminal has nothing to hand over.
    if [ ! -t 0 ] && find_mount; then
        molecule-tokenfs git-credential --mountpoint "$mount" erase >/dev/null 2>&1
    fi
    exit 0
    ;;
_fetch_token) fetch ;;
_refresh_gh) refresh_gh ;;
_invalidate_cache)
    if find_mount; then
        molecule-tokenfs refresh "$mount" >/dev/null 2>&1
    fi
    exit 0
    ;;
_mountpoint)
    find_mount
    mounted=$?
    printf '%s\n' "$mount"
    exit $mounted
    ;;
*)
    say "unknown action: $1"
    exit 1
    ;;
esac
