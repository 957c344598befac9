// What Express costs without any login: `node bare.js PORT`.
"use strict";
const { application, protect } = require("./profile");

const app = application();
protect(app, (_request, _response, next) => next());
app.listen(Number(process.argv[2]), "127.0.0.1");
