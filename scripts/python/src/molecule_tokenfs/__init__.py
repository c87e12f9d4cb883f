"""Tokens that are always fresh, from a molecule-tokenfs mount.

``token()`` gives one that is valid now: call it at each use, and never keep what it gives.
``token(repo="acme/web")`` gives one for that repository alone, ``token(name="acme")`` the one of that
name, where the mount has them.
``install()`` makes git, gh and whatever else this process starts use the mount: call it once, before
the process starts anything.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import stat
import sysconfig
from pathlib import Path
from typing import Any, Dict, Iterator, List, MutableMapping, Optional, Union

__all__ = [
    "Denied",
    "Expired",
    "NoSuchToken",
    "NoToken",
    "NotMounted",
    "NotTrusted",
    "Rejected",
    "TimedOut",
    "TokenError",
    "install",
    "token",
]

AnyPath = Union[str, "os.PathLike[str]"]

_MOUNTPOINT = "MOLECULE_TOKENFS_MOUNTPOINT"
_SYSTEM = "/run/molecule/token"


class TokenError(OSError):
    """There is no token. ``errno`` and ``filename`` are those of the refused open, ``strerror`` says
    why in words, ``remedy`` what to do about it."""

    remedy = "see how things stand: molecule-tokenfs status"

    def __str__(self) -> str:
        name = errno.errorcode.get(self.errno or 0, str(self.errno))
        return f"{self.strerror} ({self.filename}: {name}); {self.remedy}"


class NotMounted(TokenError):
    """Nothing is mounted where it was looked for, or the daemon behind the mount is gone."""

    remedy = "mount the tokens: molecule-tokenfs mount --background"


class NoSuchToken(TokenError):
    """The mount has no token of this name, or makes none for this repository."""

    remedy = "see which there are: molecule-tokenfs check"


class NotTrusted(TokenError):
    """Somebody else than root and this user has put there what looks like a mount."""

    remedy = "use a mount of root's or your own, and see who put this one there"


class NoToken(TokenError):
    """No source has given a token yet."""


class Expired(TokenError):
    """The last token ran out, and no source gives a new one."""


class Rejected(TokenError):
    """The source refuses to give a token."""


class TimedOut(TokenError):
    """No token came before the open's deadline: try again."""


class Denied(TokenError):
    """This user may not read the token."""

    remedy = "read it as its owner, or mount with --owner or --mode for this user"


_ERRORS = {
    errno.ENOENT: (NotMounted, "no tokens are mounted"),
    errno.ENOTDIR: (NotMounted, "no tokens are mounted"),
    errno.ENOTCONN: (NotMounted, "the daemon that served the tokens is gone"),
    errno.ENOKEY: (NoToken, "no source has given a token yet"),
    errno.EKEYEXPIRED: (Expired, "the last token ran out and no source gives a new one"),
    errno.EKEYREJECTED: (Rejected, "the source refuses to give a token"),
    errno.ETIMEDOUT: (TimedOut, "no token came before the open's deadline"),
    errno.EAGAIN: (TokenError, "thousands of opens already wait for a token"),
    errno.EIO: (TokenError, "the process that serves the tokens cannot be started"),
    errno.EACCES: (Denied, "this user may not read the token"),
}


def token(
    mountpoint: Optional[AnyPath] = None,
    *,
    name: Optional[str] = None,
    repo: Optional[str] = None,
) -> str:
    """A token that is valid now. Use it at once; the next use asks again.

    It is that of the mount itself; with ``name`` the one of this name in the configuration; with
    ``repo`` (``OWNER/REPO``) one for this repository alone, made on demand. These are the ``--token``
    and ``--repo`` of the commands.

    The mount is ``mountpoint``, else ``$MOLECULE_TOKENFS_MOUNTPOINT``, else the first of
    ``/run/molecule/token`` and ``$XDG_RUNTIME_DIR/molecule/token`` that is there.

    Raises a ``TokenError`` within the mount's deadline (five seconds by default) if there is none.
    """
    path = _chosen(_token_file(mountpoint, os.environ), name, repo)
    try:
        place = _judged(path)
        try:
            return Path(f"/proc/self/fd/{place}").read_bytes().decode("ascii")
        finally:
            os.close(place)
    except TokenError:
        raise
    except OSError as error:
        raise _explained(error, path) from None


def install(
    environ: Optional[MutableMapping[str, str]] = None, mountpoint: Optional[AnyPath] = None
) -> Path:
    """Wires git and gh in the environment of this process, and so of all that it starts from now
    on; gives the token's file. A second call changes nothing more.

    - git (2.31 or newer) asks the mount for the credentials of each host in
      ``$MOLECULE_TOKENFS_HOST``, else of github.com, through ``GIT_CONFIG_COUNT``; helpers from
      files, which could save a token, are passed over for these hosts; where the mount makes tokens
      on demand, git takes that of the repository at hand;
    - gh, by the shim in this package, which becomes the first in ``PATH``, and ``GH_TOKEN_FILE``;
    - a ``GH_TOKEN`` or ``GITHUB_TOKEN`` that is an installation token (``ghs_``) is removed: it is
      dead an hour after it was made, and programs would prefer it. Your own tokens stay.

    Reads no token, so it may be called before the workspace has registered. Raises ``NotMounted``
    if there is no mount, ``NotTrusted`` if it is somebody else's; nothing is changed then.
    """
    environ = os.environ if environ is None else environ
    path = _token_file(mountpoint, environ)
    try:
        os.close(_judged(path))
    except TokenError:
        raise
    except OSError as error:
        raise _explained(error, path) from None
    if mountpoint is not None:
        environ[_MOUNTPOINT] = os.path.abspath(mountpoint)
    environ["GH_TOKEN_FILE"] = str(path)
    shims = str(Path(__file__).resolve().parent / "shims")
    search = environ.get("PATH", os.defpath).split(os.pathsep)
    environ["PATH"] = os.pathsep.join([shims] + [entry for entry in search if entry != shims])
    by_repository = (path.parent / "repos").is_dir()
    _add_to_git(environ, list(_git_settings(environ, by_repository)))
    for name in ("GH_TOKEN", "GITHUB_TOKEN"):
        if environ.get(name, "").startswith("ghs_"):
            del environ[name]
    return path


def _token_file(mountpoint: Optional[AnyPath], environ: MutableMapping[str, str]) -> Path:
    named = mountpoint or environ.get(_MOUNTPOINT)
    candidates = [Path(named) if named else Path(_SYSTEM)]
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if not named and os.path.isabs(runtime):
        candidates.append(Path(runtime, "molecule/token"))
    for candidate in candidates:
        # A mount is a directory of views, or a single file, which is never empty.
        for path in (candidate / "token", candidate):
            try:
                found = path.stat()
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR):
                    continue
                return path  # a dead or closed mount, too: opening it says what is wrong
            if stat.S_ISREG(found.st_mode) and found.st_size > 0:
                return path
    return candidates[0] / "token"


def _chosen(path: Path, name: Optional[str], repo: Optional[str]) -> Path:
    # The file of another token of the mount whose own token is in `path`.
    if name is not None and repo is not None:
        raise ValueError("give name or repo, not both")
    if repo is not None:
        parts, what = repo.split("/"), f"token for `{repo}`"
        directory, is_one = Path("repos", *parts), len(parts) == 2
    elif name is not None and name != "default":
        parts, what = [name], f"token `{name}`"
        directory, is_one = Path(name), "/" not in name
    else:
        return path
    chosen = path.parent / directory / path.name
    if not is_one or any(part in ("", ".", "..") for part in parts):
        raise NoSuchToken(errno.ENOENT, f"there is no {what}", str(path.parent))
    try:
        os.stat(chosen.with_name("status.json"))
    except OSError as error:
        there = error.errno in (errno.ENOENT, errno.ENOTDIR) and path.exists()
        if there:
            raise NoSuchToken(error.errno, f"there is no {what}", str(path.parent)) from None
        raise _explained(error, path) from None
    return chosen


def _judged(path: Path) -> int:
    # What is judged is read through the same descriptor, so that nobody can exchange it in between.
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        place = os.open(path.name, os.O_PATH, dir_fd=directory)
        flaw = _flaw(place, directory)
        if flaw:
            os.close(place)
            raise NotTrusted(errno.EPERM, flaw, str(path))
        return place
    finally:
        os.close(directory)


def _flaw(place: int, directory: int) -> Optional[str]:
    # Whoever mounted or owns it decides what is read there: that must be root, or this user.
    own = os.geteuid()
    outside, nobody = own, 65534
    with open("/proc/self/uid_map") as mapped:
        for line in mapped:
            inside, there, count = map(int, line.split())
            if inside <= own < inside + count:
                outside = there + own - inside
            if inside <= 65534 < inside + count:
                nobody = 0
    with open(f"/proc/self/fdinfo/{place}") as lines:
        number = next((line.split()[1] for line in lines if line.startswith("mnt_id:")), "")
    with open("/proc/self/mountinfo", errors="surrogateescape") as lines:
        fields = next((line.split() for line in lines if line.split(" ", 1)[0] == number), [])
    kind, source, options = (fields[fields.index("-") + 1 :] + ["", "", ""])[:3]
    if kind.startswith("fuse"):
        mounter = re.search(r"(?:^|,)user_id=(\d+)", options)
        if mounter and int(mounter.group(1)) not in (0, own, outside):
            return f"it is a file system that user {mounter.group(1)} mounted"
        if kind == "fuse.molecule-tokenfs" and source == "molecule-tokenfs":
            return None
    found = os.fstat(directory)
    if found.st_uid not in (0, own, nobody):
        return f"its directory belongs to user {found.st_uid}"
    if found.st_mode & 0o022:
        return f"its directory can be written to by others (mode {found.st_mode & 0o7777:04o})"
    return None


def _explained(error: OSError, path: Path) -> TokenError:
    kind, sentence = _ERRORS.get(error.errno or 0, (TokenError, error.strerror or str(error)))
    failure = _failure_of(path) if kind in (NoToken, Expired, Rejected, TimedOut) else {}
    if failure.get("message"):
        detail = f" ({failure['detail']})" if failure.get("detail") else ""
        sentence = f"{sentence}: {failure.get('source')}: {failure['message']}{detail}"
    explained = kind(error.errno, sentence, str(path))
    explained.remedy = failure.get("remedy") or kind.remedy
    return explained


def _failure_of(path: Path) -> Dict[str, Any]:
    # What the source said last, from the document beside the token; a mounted file has none.
    try:
        document = json.loads(path.with_name("status.json").read_bytes())
        return dict(document["tokens"][0]["last_failure"] or {})
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def _git_settings(
    environ: MutableMapping[str, str], by_repository: bool
) -> Iterator[List[str]]:
    program = shutil.which("molecule-tokenfs", path=environ["PATH"]) or os.path.join(
        sysconfig.get_path("scripts"), "molecule-tokenfs"
    )
    hosts = environ.get("MOLECULE_TOKENFS_HOST") or "github.com"
    for host in filter(None, (host.strip() for host in hosts.split(","))):
        helper = f"!{shlex.quote(program)} git-credential --host {shlex.quote(host)}"
        for protocol in ("https", "http") if _is_loopback(host) else ("https",):
            key = f"credential.{protocol}://{host}.helper"
            # The empty one resets those before it.
            yield from ([key, ""], [key, helper])
            if by_repository:
                # Without it, git does not tell the helper which repository it is about.
                yield [f"credential.{protocol}://{host}.usehttppath", "true"]
    # git-lfs would hold one token over a whole transfer.
    yield ["lfs.cachecredentials", "false"]


def _is_loopback(host: str) -> bool:
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    return name in ("localhost", "[::1]") or name.startswith("127.")


def _add_to_git(environ: MutableMapping[str, str], settings: List[List[str]]) -> None:
    # git-config(1), GIT_CONFIG_COUNT. What somebody else put there stays, before ours.
    count = int(environ.get("GIT_CONFIG_COUNT") or 0)
    names = ("GIT_CONFIG_KEY_", "GIT_CONFIG_VALUE_")
    there = [[environ.get(f"{name}{n}", "") for name in names] for n in range(count)]
    if there[-len(settings) :] == settings:
        return
    for n, setting in enumerate(settings, start=count):
        for name, text in zip(names, setting):
            environ[f"{name}{n}"] = text
    environ["GIT_CONFIG_COUNT"] = str(count + len(settings))
