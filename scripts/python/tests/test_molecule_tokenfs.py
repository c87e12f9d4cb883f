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
import urllib.error
import urllib.request
from pathlib import Path

import molecule_tokenfs

PATH = os.environ["PATH"]


class Mount(unittest.TestCase):
    """A platform and a mount for each test."""

    platform_arguments = ["--repository", "work.git"]

    def mount_arguments(self):
        return []

    def setUp(self):
        self.dir = Path(tempfile.mkdtemp(prefix="tokenfs-test-"))
        self.addCleanup(shutil.rmtree, self.dir)
        self.point = self.dir / "token"
        (self.dir / "git").mkdir()
        platform = self.start(
            ["demo-platform", "--configs-dir", self.dir, "--git-root", self.dir / "git"]
            + ["--unix-socket", self.dir / "rest", *self.platform_arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.announced = json.loads(platform.stdout.readline())
        self.url = self.announced["url"]
        self.host = self.url.partition("://")[2]
        self.repository = self.announced["repositories"][0]
        self.mount("--host", self.host, *self.mount_arguments())
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

    def status(self, directory="."):
        return json.loads((self.point / directory / "status.json").read_text())["tokens"][0]

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



class Token(Mount):
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
        failure = self.status()["last_failure"]
        self.assertEqual(
            str(refused.exception),
            f"the source refuses to give a token: platform: {failure['message']} "
            f"({failure['detail']}) ({self.point}/token: EKEYREJECTED); {failure['remedy']}",
        )

    def test_without_a_document_beside_the_token_the_sentence_stands_alone(self):
        self.order("status:401")
        file = self.point / "live/token"
        with self.assertRaises(molecule_tokenfs.Rejected) as refused:
            molecule_tokenfs.token(file)
        self.assertEqual(
            str(refused.exception),
            f"the source refuses to give a token ({file}: EKEYREJECTED); "
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



class Install(Mount):
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


class ManyTokens(Mount):
    """A mount with a token of a name, and with tokens on demand."""

    platform_arguments = ["--repository", "acme/web.git", "--repository", "acme/api.git"]

    def setUp(self):
        self.platform_arguments = [*self.platform_arguments, "--app-key"]
        self.key = Path(tempfile.mkdtemp(prefix="tokenfs-key-"))
        self.addCleanup(shutil.rmtree, self.key)
        self.platform_arguments.append(self.key / "app.pem")
        super().setUp()

    def mount_arguments(self):
        config = self.dir / "tokenfs.toml"
        app = (
            f"type = 'github-app'\nclient-id = '{self.announced['client_id']}'\n"
            f"private-key = {{ file = '{self.key}/app.pem' }}\napi-url = '{self.url}'\n"
        )
        config.write_text(
            "[tokens.default]\nsources = ['app']\non-demand = true\n"
            f"[tokens.narrow]\nsources = ['narrow']\n[sources.app]\n{app}owner = 'acme'\n"
            f"[sources.narrow]\n{app}owner = 'acme'\nrepositories = ['api']\n"
        )
        return ["--config", config]

    def clones(self, token, repository):
        url = f"{self.url}/git/{repository}.git/info/refs?service=git-upload-pack"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        try:
            urllib.request.urlopen(request).close()
        except urllib.error.HTTPError as refused:
            refused.close()
            self.assertEqual(refused.code, 404)
            return False
        return True

    def test_a_token_is_chosen_by_its_name_or_by_the_repository(self):
        for which, web, api in (
            ({}, True, True),
            ({"name": "default"}, True, True),
            ({"name": "narrow"}, False, True),
            ({"repo": "acme/web"}, True, False),
            ({"repo": "Acme/API.git"}, False, True),
        ):
            token = molecule_tokenfs.token(self.point, **which)
            self.assertEqual(self.clones(token, "acme/web"), web, which)
            self.assertEqual(self.clones(token, "acme/api"), api, which)
        os.environ["MOLECULE_TOKENFS_MOUNTPOINT"] = str(self.point)
        expected = (self.point / "repos/acme/web/token").read_text()
        self.assertEqual(molecule_tokenfs.token(repo="acme/web"), expected)

    def test_a_token_that_the_mount_has_not_is_named(self):
        for which, what in (
            ({"name": "initech"}, "token `initech`"),
            ({"name": "repos/acme/web"}, "token `repos/acme/web`"),
            ({"name": ".."}, "token `..`"),
            ({"name": ""}, "token ``"),
            ({"repo": "initech/web"}, "token for `initech/web`"),
            ({"repo": "acme"}, "token for `acme`"),
            ({"repo": "acme/.."}, "token for `acme/..`"),
        ):
            with self.assertRaises(molecule_tokenfs.NoSuchToken) as missing:
                molecule_tokenfs.token(self.point, **which)
            self.assertEqual(
                str(missing.exception),
                f"there is no {what} ({self.point}: ENOENT); "
                "see which there are: molecule-tokenfs check",
            )
        with self.assertRaises(ValueError):
            molecule_tokenfs.token(self.point, name="narrow", repo="acme/web")
        for which in ({"name": "narrow"}, {"repo": "acme/web"}):
            with self.assertRaises(molecule_tokenfs.NotMounted):
                molecule_tokenfs.token(self.dir / "nothing", **which)

    def test_a_repository_that_is_not_granted_is_rejected_with_its_name(self):
        with self.assertRaises(molecule_tokenfs.Rejected) as refused:
            molecule_tokenfs.token(self.point, repo="acme/secret")
        failure = self.status("repos/acme/secret")["last_failure"]
        self.assertEqual(failure["kind"], "not_granted")
        self.assertIn(failure["detail"], str(refused.exception))
        self.assertIn("acme", failure["detail"])
        self.assertEqual(refused.exception.remedy, failure["remedy"])
        self.assertEqual(refused.exception.filename, f"{self.point}/repos/acme/secret/token")

    def test_git_takes_the_token_of_the_repository_after_install(self):
        os.environ["MOLECULE_TOKENFS_HOST"] = self.host
        molecule_tokenfs.install(mountpoint=self.point)
        for url in self.announced["repositories"]:
            self.run_here("git", "ls-remote", url)
        names = sorted(os.listdir(self.point / "repos/acme"))
        self.assertEqual(names, ["api", "web"], "both were made")
        self.assertEqual(self.status()["opens"], 0, "that of the mount was not asked for")
        git = self.ledger()["services"]["git"]
        self.assertGreaterEqual(git["live"], 2, git)
        self.assertEqual((git["out_of_scope"], git["dead"], git["unknown"]), (0, 0, 0), git)


if __name__ == "__main__":
    unittest.main()
