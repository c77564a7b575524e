"""What `launch_server` says when it is ready: two first requests that work as they are printed."""

from __future__ import annotations

import json
import shlex

from .server_options import ServerOptions

QUESTION = "What is the capital of France?"


def greeting(options: ServerOptions, url: str, seconds: float) -> str:
    """For a fleet that is ready at `url`, `seconds` after its start."""
    server = options.server
    model = server.served_model_name or server.model_path
    workers = "1 worker" if options.dp_size == 1 else f"{options.dp_size} workers"
    # The key itself belongs in no log.
    key_header = ' -H "Authorization: Bearer $RADIXFLEET_API_KEY"' if server.api_key else ""
    key = 'os.environ["RADIXFLEET_API_KEY"]' if server.api_key else '"none"'
    imports = (
        "import os\n\nfrom openai import OpenAI" if server.api_key else "from openai import OpenAI"
    )
    messages = [{"role": "user", "content": QUESTION}]
    body = json.dumps({"model": model, "temperature": 0, "messages": messages})
    return f"""
radixfleet is ready at {url} after {seconds:.1f} s: {model} on {workers}. Ctrl-C stops it.

With curl:

curl {url}/v1/chat/completions{key_header} -H 'Content-Type: application/json' \\
  -d {shlex.quote(body)}

With Python:

{imports}

client = OpenAI(base_url="{url}/v1", api_key={key})
answer = client.chat.completions.create(
    model={json.dumps(model)},
    temperature=0,
    messages={json.dumps(messages)},
)
print(answer.choices[0].message.content)
"""
