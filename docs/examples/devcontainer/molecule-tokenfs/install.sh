#!/bin/sh
# Installs the feature, as root, while the image is built. The tarball of `scripts/package tarball` lies
# beside this file.
set -eu
cd "$(dirname "$0")"

tar -C /usr/local --strip-components=1 -xzf molecule-tokenfs-*.tar.gz
molecule-tokenfs setup git --system
if command -v gh >/dev/null; then
    molecule-tokenfs setup gh
fi

# The container starts with this (`entrypoint` of the feature). It mounts for the user of the editor and
# its terminals, and then becomes whatever the container runs.
mkdir -p /usr/local/share/molecule-tokenfs
cat >/usr/local/share/molecule-tokenfs/start <<START
#!/bin/sh
molecule-tokenfs mount --background --owner '${_REMOTE_USER:-root}' ||
    echo "no tokens: see molecule-tokenfs doctor" >&2
exec "\$@"
START
chmod 0755 /usr/local/share/molecule-tokenfs/start
