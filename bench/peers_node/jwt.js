// JSON Web Tokens: `node jwt.js PORT HS256|RS256 LIFE_SECONDS parsed|raw`.
"use strict";
const { createSecretKey, generateKeyPairSync, randomBytes } = require("crypto");
const jwt = require("jsonwebtoken");
const { application, find, protect } = require("./profile");

const [port, algorithm, life, keys] = process.argv.slice(2);
const { signing, verifying } = keys === "raw" ? rawKeys() : parsedKeys();

/** Return keys as most articles have them: jsonwebtoken parses them again for each token. */
function rawKeys() {
  if (algorithm === "HS256") {
    const secret = randomBytes(32).toString("hex");
    return { signing: secret, verifying: secret };
  }
  const { privateKey, publicKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  return {
    signing: privateKey.export({ type: "pkcs8", format: "pem" }),
    verifying: publicKey.export({ type: "spki", format: "pem" }),
  };
}

/** Return keys that are parsed once. */
function parsedKeys() {
  if (algorithm === "HS256") {
    const secret = createSecretKey(randomBytes(32));
    return { signing: secret, verifying: secret };
  }
  const { privateKey, publicKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  return { signing: privateKey, verifying: publicKey };
}

const app = application();

app.post("/login", (request, response) => {
  const user = find(request.body);
  if (!user) return response.status(401).json({ error: "invalid credentials" });
  const claims = { sub: user.id, email: user.email, roles: ["user"] };
  response.json({ token: jwt.sign(claims, signing, { algorithm, expiresIn: Number(life) }) });
});

protect(app, (request, response, next) => {
  const [scheme, token] = (request.headers.authorization || "").split(" ");
  if (scheme !== "Bearer") return response.status(401).json({ error: "not logged in" });
  try {
    request.user = jwt.verify(token, verifying, { algorithms: [algorithm] });
  } catch {
    return response.status(401).json({ error: "invalid token" });
  }
  next();
});

// The server keeps nothing that it could end: the page deletes its copy of the token.
app.post("/logout", (_request, response) => response.json({ ok: true }));

app.listen(Number(port), "127.0.0.1");
