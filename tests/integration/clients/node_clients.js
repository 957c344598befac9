// Clients of Node.js, each with its defaults: `node node_clients.js URL` prints what each of them got, as one JSON object.
"use strict";
const http = require("node:http");
const { Readable } = require("node:stream");
const axios = require("axios");
const { WebSocket } = require("ws");

const base = process.argv[2];
const path = "/echo/a file [1] {x}|^ü'.txt";
const large = Buffer.alloc(3 * 1024 * 1024);

function* pieces() {
  for (let count = 0; count < 48; count++) yield Buffer.alloc(65536);
}

async function withFetch(target, options) {
  const response = await fetch(base + target, options);
  return [response.status, await response.text()];
}

async function withAxios(target, options = {}) {
  const response = await axios({ url: base + target, transformResponse: (text) => text, validateStatus: null, ...options });
  return [response.status, response.data];
}

const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
function withAgent(target, options = {}, send = (request) => request.end()) {
  return new Promise((resolve, reject) => {
    const request = http.request(encodeURI(base + target), { agent, ...options }, (response) => {
      let text = "";
      response.on("data", (chunk) => (text += chunk));
      response.on("end", () => resolve([response.statusCode, text]));
    });
    request.on("error", reject);
    send(request);
  });
}

function withWebSocket(options) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(base.replace("http", "ws") + "/ws", options);
    socket.on("open", () => socket.send("hello"));
    socket.on("message", (data) => {
      socket.close(4000, "enough");
      socket.on("close", (code) => resolve([code, String(data)]));
    });
    socket.on("error", reject);
  });
}

function form() {
  const data = new FormData();
  data.append("note", "ü");
  data.append("file", new Blob(["content"]), "Büro [1].txt");
  return data;
}

const json = JSON.stringify({ a: "ü" });
const clients = {
  fetch: {
    get: () => withFetch("/echo/a?x=1&y[]=2"),
    post: () => withFetch("/echo/a", { method: "POST", headers: { "Content-Type": "application/json" }, body: json }),
    empty: () => withFetch("/echo/a", { method: "POST" }),
    large: () => withFetch("/echo/a", { method: "PUT", body: large }),
    stream: () => withFetch("/echo/a", { method: "POST", body: Readable.toWeb(Readable.from(pieces())), duplex: "half" }),
    form: () => withFetch("/echo/a", { method: "POST", body: form() }),
    path: () => withFetch(path),
    redirect: () => withFetch("/redirect"),
    head: () => withFetch("/echo/a", { method: "HEAD" }),
    options: () => withFetch("/echo/a", { method: "OPTIONS" }),
    delete: () => withFetch("/echo/a", { method: "DELETE" }),
    nothing: () => withFetch("/status/204"),
    parts: () => withFetch("/drip"),
  },
  axios: {
    get: () => withAxios("/echo/a", { params: { x: 1, y: [2] } }),
    post: () => withAxios("/echo/a", { method: "post", data: { a: "ü" } }),
    empty: () => withAxios("/echo/a", { method: "post" }),
    large: () => withAxios("/echo/a", { method: "put", data: large }),
    stream: () => withAxios("/echo/a", { method: "post", data: Readable.from(pieces()) }),
    form: () => withAxios("/echo/a", { method: "post", data: form() }),
    path: () => withAxios(path),
    redirect: () => withAxios("/redirect"),
    head: () => withAxios("/echo/a", { method: "head" }),
    options: () => withAxios("/echo/a", { method: "options" }),
    delete: () => withAxios("/echo/a", { method: "delete" }),
    nothing: () => withAxios("/status/204"),
    parts: () => withAxios("/drip"),
  },
  "http.Agent": {
    get: () => withAgent("/echo/a?x=1&y[]=2"),
    post: () =>
      withAgent("/echo/a", { method: "POST", headers: { "Content-Type": "application/json" } }, (sent) => sent.end(json)),
    empty: () => withAgent("/echo/a", { method: "POST" }),
    large: () => withAgent("/echo/a", { method: "PUT", headers: { Expect: "100-continue" } }, (sent) => sent.on("continue", () => sent.end(large))),
    stream: () => withAgent("/echo/a", { method: "POST" }, (sent) => Readable.from(pieces()).pipe(sent)),
    path: () => withAgent(path),
    head: () => withAgent("/echo/a", { method: "HEAD" }),
    options: () => withAgent("/echo/a", { method: "OPTIONS" }),
    delete: () => withAgent("/echo/a", { method: "DELETE" }),
    nothing: () => withAgent("/status/204"),
    parts: () => withAgent("/drip"),
  },
  ws: {
    websocket: () => withWebSocket({}),
    "websocket with cookies": () => withWebSocket({ headers: { Cookie: "theme=dark" } }),
    "websocket with an origin": () => withWebSocket({ origin: base }),
  },
};

(async () => {
  const got = {};
  for (const [client, behaviours] of Object.entries(clients)) {
    for (const [behaviour, run] of Object.entries(behaviours)) {
      got[`${client}: ${behaviour}`] = await run().catch((error) => [0, String(error.cause ?? error)]);
    }
  }
  console.log(JSON.stringify(got));
  agent.destroy();
})();
