// Asks for one installation token as GitHub's reference client does.
// usage: node octokit.mjs BASE-URL APP INSTALLATION [REPOSITORY NAME=LEVEL]
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(`${process.env.MODULES}/`);
const load = async (name) => import(pathToFileURL(require.resolve(name)));
const { createAppAuth } = await load("@octokit/auth-app");
const { request } = await load("@octokit/request");

const [baseUrl, appId, installation, repository, permission] = process.argv.slice(2);
const privateKey = readFileSync(process.env.KEY, "utf8");
const auth = createAppAuth({ appId, privateKey, request: request.defaults({ baseUrl }) });
const scope = repository ? { repositoryNames: [repository], permissions: Object.fromEntries([permission.split("=")]) } : {};
const { token } = await auth({ type: "installation", installationId: Number(installation), ...scope });
console.log(`a token of ${token.length} bytes`);
