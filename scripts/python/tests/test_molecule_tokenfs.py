"""The module against a real mount of `molecule-tokenfs`, which must be in PATH, with git and gh.

Run by tests/packaging.rs and by scripts/evidence packages; by hand, where FUSE can be used:
    PYTHONPATH=scripts/python/src python3 -m unittest discover scripts/python/tests
"""

import errno
import json
import os
import shutil
import subprocess
import tempfile
import time
import unittest
import urllib.request
from pathlib import Path

import molecule_tokenfs

PATH = os.environ["PATH"]


class Mount(unittest.TestCase):
    """A platform and a mount for each test."""

    def setUp(self):
        self.dir = Path(tempfile.mkdtemp(prefix="tokenfs-test-"))
        self.addCleanup(shutil.rmtree, self.dir)
        self.point = self.dir / "token"
        (self.dir / "git").mkdir()
        platform = self.start(
            ["demo-platform", "--configs-dir", self.dir, "--git-root", self.dir / "git"]
            + ["--repository", "work.git", "--unix-socket", self.dir / "rest"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        announced = json.loads(platform.stdout.readline())
        self.url = announced["url"]
        self.host = self.url.partition("://")[2]
        self.repository = announced["repositories"][0]
        self.mount("--host", self.host)
        for name in list(os.environ):
            if name.startswith(("GIT_", "GH_", "GITHUB_", "MOLECULE_", "XDG_")):
                del os.environ[name]
        os.environ.update(PATH=PATH, HOME=str(self.dir))

    def start(self, arguments, **options):
        program = subprocess.Popen(
            ["molecule-tokenfs", *map(str, arguments)],
            env={"PATH": PATH, "HOME": str(self.dir)},
            **{"stdin": subprocess.DEVNULL, **options},
        )
        self.addCleanup(self.end, program)
        return program

    def end(self, program):
        program.terminate()
        program.wait(timeout=10)
        for pipe in (program.stdin, program.stdout):
            if pipe:
                pipe.close()

    def mount(self, *arguments):
        self.daemon = self.start(
            ["mount", self.point, "--platform-url", self.url, "--configs-dir", self.dir]
            + ["--log-level", "error", *arguments]
        )
        deadline = time.monotonic() + 10
        while not (self.point / "status.json").exists():
            self.assertIsNone(self.daemon.poll(), "the daemon ended")
            self.assertLess(time.monotonic(), deadline, "the mount does not serve")
            time.sleep(0.02)

    def ledger(self):
        with urllib.request.urlopen(self.url + "/demo/ledger") as answer:
            return json.load(answer)["counts"]

    def order(self, fault):
        order = json.dumps({"sticky": fault}).encode()
        urllib.request.urlopen(self.url + "/demo/fault", data=order).close()

    def run_here(self, *command):
        done = subprocess.run(command, cwd=self.dir, stdout=subprocess.PIPE, timeout=30)
        self.assertEqual(done.returncode, 0, command)
        return done.stdout.decode().strip()

    # === token ===

    def test_a_token_is_the_one_of_the_mount_wherever_it_is_named(self):
        expected = (self.point / "token").read_text()
        self.assertTrue(expected.startswith("ghs_"))
        self.assertEqual(molecule_tokenfs.token(self.point), expected)
        self.assertEqual(molecule_tokenfs.token(str(self.point)), expected)
        os.environ["MOLECULE_TOKENFS_MOUNTPOINT"] = str(self.point)
        self.assertEqual(molecule_tokenfs.token(), expected)

    def test_the_users_runtime_directory_is_looked_at(self):
        (self.dir / "molecule").mkdir()
        (self.dir / "molecule/token").symlink_to(self.point)
        os.environ["XDG_RUNTIME_DIR"] = str(self.dir)
        self.assertEqual(molecule_tokenfs.token(), (self.point / "token").read_text())

    def test_a_single_file_is_a_mount_too(self):
        file = self.point / "live/token"
        self.assertEqual(molecule_tokenfs.token(file), (self.point / "token").read_text())

    def test_a_refusal_is_an_exception_with_a_name_and_says_what_to_do(self):
        self.order("status:401")
        with self.assertRaises(molecule_tokenfs.Rejected) as refused:
            molecule_tokenfs.token(self.point)
        self.assertEqual(refused.exception.errno, errno.EKEYREJECTED)
        self.assertEqual(
            str(refused.exception),
            f"the source refuses to give a token ({self.point}/token: EKEYREJECTED); "
            "see how things stand: molecule-tokenfs status",
        )

    def test_a_mount_that_is_not_there_or_no_more_is_named(self):
        with self.assertRaises(molecule_tokenfs.NotMounted) as missing:
            molecule_tokenfs.token(self.dir / "nothing")
        self.assertIn("molecule-tokenfs mount --background", str(missing.exception))
        empty = self.dir / "empty"
        empty.mkdir()
        with self.assertRaises(molecule_tokenfs.NotMounted):
            molecule_tokenfs.token(empty)
        with self.assertRaises(molecule_tokenfs.NotMounted):
            molecule_tokenfs.install({"PATH": PATH}, empty)

    # === install ===

    def test_git_and_gh_work_after_install_and_no_dead_token_is_seen(self):
        os.environ["MOLECULE_TOKENFS_HOST"] = self.host
        os.environ["GITHUB_TOKEN"] = "ghs_frozen"
        gh = self.dir / "gh"
        gh.mkdir()
        (gh / "config.yml").write_text(f'version: "1"\nhttp_unix_socket: {self.dir}/rest\n')
        os.environ.update(GH_CONFIG_DIR=str(gh), GH_HOST="github.localhost")
        self.assertEqual(molecule_tokenfs.install(mountpoint=self.point), self.point / "token")
        self.assertEqual(self.ledger()["platform"]["requests"], 0, "install reads no token")
        self.run_here("git", "clone", "--quiet", self.repository, "clone")
        login = self.run_here("gh", "api", "/user", "--jq", ".login")
        self.assertTrue(login)
        services = self.ledger()["services"]
        for name in ("git", "rest"):
            self.assertGreater(services[name]["live"], 0, services)
            for verdict in ("dead", "unknown", "revoked"):
                self.assertEqual(services[name][verdict], 0, services)

    def test_install_appends_to_what_git_was_told_and_does_it_once(self):
        os.environ.update(
            GIT_CONFIG_COUNT="1", GIT_CONFIG_KEY_0="user.name", GIT_CONFIG_VALUE_0="A"
        )
        molecule_tokenfs.install(mountpoint=self.point)
        once = dict(os.environ)
        self.assertEqual(self.run_here("git", "config", "user.name"), "A")
        key = "credential.https://github.com.helper"
        helpers = self.run_here("git", "config", "-z", "--get-all", key).split("\0")[:-1]
        self.assertEqual(len(helpers), 2)
        self.assertEqual(helpers[0], "")
        self.assertRegex(helpers[1], "^!.*molecule-tokenfs git-credential --host github.com$")
        molecule_tokenfs.install(mountpoint=self.point)
        self.assertEqual(dict(os.environ), once)

    def test_a_frozen_token_goes_and_your_own_stays(self):
        environ = {"GH_TOKEN": "ghs_frozen", "GITHUB_TOKEN": "ghp_own", "PATH": PATH}
        molecule_tokenfs.install(environ, self.point)
        self.assertNotIn("GH_TOKEN", environ)
        self.assertEqual(environ["GITHUB_TOKEN"], "ghp_own")
        self.assertEqual(environ["GH_TOKEN_FILE"], str(self.point / "token"))
        self.assertEqual(environ["MOLECULE_TOKENFS_MOUNTPOINT"], str(self.point))
        shims = environ["PATH"].split(os.pathsep)[0]
        self.assertTrue(os.access(os.path.join(shims, "gh"), os.X_OK))


if __name__ == "__main__":
    unittest.main()
