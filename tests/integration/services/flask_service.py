"""Flask as its documentation shows it: `gunicorn flask_service:app`."""

import hashlib
from io import BytesIO

from flask import Flask, redirect, request, send_file, session, url_for
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.wrappers import Response

app = Flask(__name__)
app.secret_key = "not a secret"
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1, x_prefix=1)  # type: ignore[method-assign]  # as Flask documents it


@app.get("/where")
def where() -> dict[str, str | None]:
    """Tell what the application takes the request for."""
    return {
        "url": request.url,
        "root": request.url_root,
        "url_for": url_for("where", _external=True),
        "client": request.remote_addr,
    }


@app.get("/pages/")
def pages() -> str:
    """Werkzeug sends `/pages` here."""
    return "pages"


@app.get("/moved")
def moved() -> Response:
    return redirect(url_for("pages"))


@app.get("/moved-absolute")
def moved_absolute() -> Response:
    return redirect(url_for("pages", _external=True))


@app.post("/login")
def login() -> Response:
    session["name"] = request.form["name"]
    return redirect(url_for("me"))


@app.get("/me")
def me() -> dict[str, str]:
    return {"name": session["name"]}


@app.post("/upload")
def upload() -> dict[str, object]:
    file = request.files["file"]
    content = file.read()
    return {"name": file.filename, "size": len(content), "sha256": hashlib.sha256(content).hexdigest(), **request.form}


@app.post("/refuse")
def refuse() -> tuple[str, int]:
    """Answer without a look at the body."""
    return "not you", 403


@app.get("/report")
def report() -> Response:
    return send_file(
        BytesIO(b"0123456789" * 1000), download_name="Büro [1].txt", as_attachment=True, conditional=True, etag="v1"
    )
