"""What `launch_server` says when it is ready: two first requests that work as they are printed."""

from __future__ import annotations

import json
import shlex

from .server_options import ServerOptions

# Route, method of OpenAI's client, and what to print of its answer.
_CHAT = (
    "/v1/chat/completions",
    "chat.completions.create",
    "answer.choices[0].message.content",
)
_EMBEDDING = ("/v1/embeddings", "embeddings.create", "answer.data[0].embedding")
QUESTION = "What is the capital of France?"


def greeting(options: ServerOptions, url: str, seconds: float, *, embeds: bool = False) -> str:
    """For a fleet that is ready at `url`, `seconds` after its start; it `embeds`, or it chats."""
    server = options.server
    model = server.served_model_name or server.model_path
    workers = "1 worker" if options.dp_size == 1 else f"{options.dp_size} workers"
    # The key itself belongs in no log.
    key_header = ' -H "Authorization: Bearer $RADIXFLEET_API_KEY"' if server.api_key else ""
    key = 'os.environ["RADIXFLEET_API_KEY"]' if server.api_key else '"none"'
    imports = (
        "import os\n\nfrom openai import OpenAI" if server.api_key else "from openai import OpenAI"
    )
    path, method, shown = _CHAT
    arguments = {"model": model, "temperature": 0}
    arguments["messages"] = [{"role": "user", "content": QUESTION}]
    if embeds:
        path, method, shown = _EMBEDDING
        arguments = {"model": model, "input": QUESTION}
    call = "".join(f"\n    {name}={json.dumps(value)}," for name, value in arguments.items())
    return f"""
radixfleet is ready at {url} after {seconds:.1f} s: {model} on {workers}. Ctrl-C stops it.

With curl:

curl {url}{path}{key_header} -H 'Content-Type: application/json' \\
  -d {shlex.quote(json.dumps(arguments))}

With Python:

{imports}

client = OpenAI(base_url="{url}/v1", api_key={key})
answer = client.{method}({call}
)
print({shown})
"""
