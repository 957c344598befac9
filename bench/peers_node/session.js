// Sessions in Redis: `node session.js PORT REDIS_PORT [without-touch]`.
"use strict";
const session = require("express-session");
const { RedisStore } = require("connect-redis");
const { createClient } = require("redis");
const { application, find, protect } = require("./profile");

const [port, redisPort, touch] = process.argv.slice(2);
const client = createClient({ url: `redis://127.0.0.1:${redisPort}` });
client.on("error", (error) => console.error(error.message));

const app = application();
app.use(
  session({
    // By default, each request also extends the session's life in Redis.
    store: new RedisStore({ client, disableTouch: touch === "without-touch" }),
    secret: process.env.SESSION_SECRET,
    resave: false,
    saveUninitialized: false,
    cookie: { httpOnly: true, sameSite: "lax", maxAge: 14 * 24 * 3600 * 1000 },
  }),
);

app.post("/login", (request, response, next) => {
  const user = find(request.body);
  if (!user) return response.status(401).json({ error: "invalid credentials" });
  request.session.regenerate((error) => {
    if (error) return next(error);
    request.session.user = { id: user.id, email: user.email, roles: ["user"] };
    response.json({ user: request.session.user });
  });
});

protect(app, (request, response, next) =>
  request.session.user ? next() : response.status(401).json({ error: "not logged in" }),
);

app.post("/logout", (request, response, next) =>
  request.session.destroy((error) => (error ? next(error) : response.clearCookie("connect.sid").json({ ok: true }))),
);

client.connect().then(() => app.listen(Number(port), "127.0.0.1"));
