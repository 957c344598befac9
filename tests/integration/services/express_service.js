// Express as its documentation shows it: `node express_service.js PORT`.
"use strict";
const express = require("express");

const app = express();
app.set("trust proxy", "loopback");
app.use(express.json());
app.use(express.urlencoded({ extended: false }));
app.use("/files", express.static(__dirname));

app.get("/where", (request, response) => {
  const { protocol, hostname, host, ip, secure } = request;
  response.json({ protocol, hostname, host, ip, secure, url: `${protocol}://${host}${request.originalUrl}` });
});
app.get("/search", (request, response) => response.json(request.query));
app.get("/users/:name/", (request, response) => response.json({ name: request.params.name }));
app.get("/moved", (_request, response) => response.redirect("/where"));
app.get("/login", (_request, response) => response.cookie("session", "a b", { httpOnly: true }).redirect(303, "/where"));
app.post("/json", (request, response) => response.json(request.body));
app.post("/form", (request, response) => response.json(request.body));

app.listen(Number(process.argv[2]), "127.0.0.1");
