"""The demo model with a chat template that knows functions. What it never learnt, a grammar makes it write."""

import shutil
from pathlib import Path

from tests.support.service.live_service import ROOT

# Qwen's way with functions, between the demo model's own tokens.
TEMPLATE = (
    "{{- bos_token -}}"
    "{%- if tools -%}{{- '<|system|>\n' -}}{%- for tool in tools -%}{{- tool | tojson + '\n' -}}{%- endfor -%}"
    "{{- 'Calls are between <tool_call> and </tool_call>.<|end|>\n' -}}{%- endif -%}"
    "{%- for message in messages -%}"
    "{{- '<|' + ('user' if message.role == 'tool' else message.role) + '|>\n' -}}"
    "{%- if message.content -%}{{- message.content | trim -}}{%- endif -%}"
    "{%- for call in message.tool_calls or [] -%}"
    '{{- \'<tool_call>\n{"name": "\' + call.function.name + \'", "arguments": \' -}}'
    "{{- call.function.arguments | tojson -}}{{- '}\n</tool_call>' -}}"
    "{%- endfor -%}{{- '<|end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>\n' -}}{%- endif -%}"
)


def write_tool_checkpoint(directory: Path, template: str = TEMPLATE) -> Path:
    """Returns the checkpoint's directory, which is made inside of this one."""
    checkpoint = directory / "tool-model"
    shutil.copytree(ROOT / "demo" / "model", checkpoint)
    (checkpoint / "chat_template.jinja").write_text(template)
    return checkpoint
