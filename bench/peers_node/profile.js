// What both applications have in common: one account, its profile, and how they start.
"use strict";
const { randomUUID } = require("crypto");
const express = require("express");

const account = { id: randomUUID(), email: "ada@example.com", password: "a long enough password" };
const profile = {
  id: account.id,
  display_name: "Ada Lovelace",
  bio: "Writes programs for engines that do not exist yet.",
  website: "https://example.com/ada",
  updated_at: "2026-11-29T12:00:00Z",
};

/** Return the account with this address and password, or undefined. */
function find({ email, password } = {}) {
  return email === account.email && password === account.password ? account : undefined;
}

/** Return an application that parses what pages send, with a page of its own. */
function application() {
  const app = express();
  app.use(express.json());
  app.use(express.urlencoded({ extended: false }));
  app.get("/", (_request, response) => response.type("html").send("<!doctype html><title>Profile</title>"));
  return app;
}

/** Add what needs a login to an application; `login` is the middleware that checks it. */
function protect(app, login) {
  app.get("/profile", login, (_request, response) => response.json(profile));
  app.post("/profile", login, (request, response) => {
    profile.display_name = request.body.display_name;
    response.json(profile);
  });
}

module.exports = { application, find, protect };
