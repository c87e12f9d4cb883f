// Verifies the claim in each request with Node's own cryptography, and says what came of it.
// usage: node verify.mjs PORT
import { createPrivateKey, createPublicKey, verify } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";

const key = createPublicKey(createPrivateKey(readFileSync(process.env.KEY, "utf8")));
createServer((request, response) => {
  const claim = (request.headers.authorization ?? "").replace(/^Bearer /, "");
  const [head, body, signature] = claim.split(".");
  const { alg } = JSON.parse(Buffer.from(head ?? "", "base64url"));
  const good = verify("RSA-SHA256", Buffer.from(`${head}.${body}`), key, Buffer.from(signature ?? "", "base64url"));
  console.log(good ? `verified ${alg}` : `WRONG ${alg}`);
  response.writeHead(404, { "content-type": "application/json" });
  response.end('{"message":"Not Found"}');
}).listen(Number(process.argv[2]), "127.0.0.1");
