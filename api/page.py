"""The description as a page to read: plain HTML, without scripts or anything from elsewhere, so it works offline."""

import json
from collections.abc import Iterator
from html import escape
from typing import Any

POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1f; }
h2 { border-top: 1px solid #d5d5dc; padding-top: 1.5rem; } code, pre { font: 14px/1.45 ui-monospace, monospace; }
pre { background: #f4f4f7; padding: .75rem; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .2rem 1rem .2rem 0; vertical-align: top; }
.method { background: #1f5f8b; color: white; padding: .1rem .5rem; border-radius: .25rem; }
@media (prefers-color-scheme: dark) { body { background: #16161a; color: #e6e6ea; } pre { background: #232329; }
a { color: #8fc7ee; } h2 { border-color: #3a3a42; } }
"""


def render(described: dict[str, Any]) -> str:
    """The OpenAPI description as HTML."""
    about = "".join(f"<p>{_text(part)}</p>" for part in described["info"]["description"].split("\n\n"))
    operations = "".join(
        part
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
        for part in _operation(method, path, operation)
    )
    title = f"{escape(described['info']['title'])} API"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f'<body><h1>{title}</h1>{about}<p>For programs: <a href="/openapi.json">openapi.json</a></p>{operations}'
        "</body></html>"
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f'<h2><code><span class="method">{method.upper()}</span> {escape(path)}</code></h2>'
    yield f"<p><strong>{escape(operation['summary'])}.</strong> {_text(operation.get('description', ''))}</p>"
    if parameters := operation.get("parameters"):
        yield "<h3>Parameters</h3><table>"
        for parameter in parameters:
            needed = "required" if parameter.get("required") else "optional"
            yield (
                f"<tr><td><code>{escape(parameter['name'])}</code></td><td>{needed}</td>"
                f"<td>{_text(parameter.get('description', ''))}</td></tr>"
            )
        yield "</table>"
    if body := operation.get("requestBody"):
        yield f"<h3>Body</h3><p>{_text(body['description'])}</p>"
        for kind, content in body["content"].items():
            for example in content["examples"].values():
                yield f"<p>{escape(example['summary'])} (<code>{escape(kind)}</code>)</p>{_example(example['value'])}"
    yield "<h3>Answers</h3><table>"
    for status, response in operation["responses"].items():
        content = response.get("content", {}).get("application/json", {})
        shown = _example(content["example"]) if "example" in content and status < "300" else ""
        yield f"<tr><td><code>{escape(status)}</code></td><td>{_text(response['description'])}{shown}</td></tr>"
    yield "</table>"


def _example(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    return f"<pre>{escape(text)}</pre>"


def _text(text: str) -> str:
    """Text with `code` in backticks."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))
