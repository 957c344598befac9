// Node.js' own server: `node node_service.js PORT`.
"use strict";
const { createServer } = require("node:http");
const { WebSocketServer } = require("ws");

const answers = {
  // What url and fields came; the classic way to build an absolute URL.
  "/where": (request, response) => {
    const url = new URL(request.url, `http://${request.headers.host}`);
    response.setHeader("Content-Type", "application/json");
    response.end(JSON.stringify({ method: request.method, url: url.href, fields: request.rawHeaders }));
  },
  "/moved": (request, response) => {
    response.writeHead(302, { Location: `http://${request.headers.host}/where` }).end();
  },
  // Answers while the body still comes, and closes.
  "/refuse": (_request, response) => {
    response.writeHead(413, { Connection: "close" }).end("too large");
  },
  "/body": (request, response) => {
    let size = 0;
    request.on("data", (chunk) => (size += chunk.length));
    request.on("end", () => response.end(String(size)));
  },
  "/hints": (_request, response) => {
    response.writeEarlyHints({ link: "</style.css>; rel=preload; as=style" });
    response.end("after hints");
  },
  "/trailers": (_request, response) => {
    response.writeHead(200, { Trailer: "X-Checksum" });
    response.write("content");
    response.addTrailers({ "X-Checksum": "1" });
    response.end();
  },
};

const server = createServer((request, response) => {
  const answer = answers[request.url.split("?")[0]];
  if (answer) answer(request, response);
  else response.writeHead(404).end();
});

new WebSocketServer({ server }).on("connection", (socket) => {
  socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
});
server.listen(Number(process.argv[2]), "127.0.0.1");
