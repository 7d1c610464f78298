"""The released template's rules written out as a Jinja file of our own: the independent reference of the renderer."""

import json

from jinja2.sandbox import ImmutableSandboxedEnvironment

TEMPLATE = """\
{%- macro header(message) -%}
{%- if message.role == 'user' -%}<|im_user|>{%- elif message.role == 'assistant' -%}<|im_assistant|>
{%- else -%}<|im_system|>{%- endif -%}
{{- message.name or message.role -}}<|im_middle|>
{%- endmacro -%}

{%- macro content(message) -%}
{%- if message.content is string -%}{{- message.content -}}
{%- elif message.content -%}
{%- for part in message.content -%}
{%- if part.type in ['image', 'image_url'] -%}
{{- '<|media_begin|>image<|media_content|><|media_pad|><|media_end|>\\n' -}}
{%- elif part.type in ['video', 'video_url'] -%}{{- '<|kimi_k25_video_placeholder|>\\n' -}}
{%- else -%}{{- part.text -}}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}

{%- macro calls(message) -%}
{%- if message.tool_calls -%}
<|tool_calls_section_begin|>
{%- for call in message.tool_calls -%}
<|tool_call_begin|>{{- call.id -}}<|tool_call_argument_begin|>
{%- if call.function.arguments is string -%}{{- call.function.arguments -}}
{%- else -%}{{- call.function.arguments | tojson -}}{%- endif -%}
<|tool_call_end|>
{%- endfor -%}
<|tool_calls_section_end|>
{%- endif -%}
{%- endmacro -%}

{%- set last = namespace(answer=-1) -%}
{%- for message in messages -%}
{%- if message.role == 'assistant' and not message.tool_calls -%}{%- set last.answer = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- if preserve_thinking is true -%}{%- set last.answer = -1 -%}{%- endif -%}

{%- if tools -%}
<|im_system|>tool_declare<|im_middle|>
{%- if tools_ts_str -%}{{- tools_ts_str -}}{%- else -%}{{- tools | tojson(separators=(',', ':')) -}}{%- endif -%}
<|im_end|>
{%- endif -%}

{%- for message in messages -%}
{{- header(message) -}}
{%- if message.role == 'assistant' -%}
{%- if loop.index0 <= last.answer or thinking is false -%}<think></think>
{%- else -%}<think>{{- message.reasoning_content -}}</think>{%- endif -%}
{{- content(message) -}}{{- calls(message) -}}
{%- elif message.role == 'tool' -%}
{{- '## Return of ' ~ message.tool_call_id ~ '\\n' -}}{{- content(message) -}}
{%- else -%}{{- content(message) -}}{%- endif -%}
<|im_end|>
{%- endfor -%}

{%- if add_generation_prompt -%}
<|im_assistant|>assistant<|im_middle|>
{%- if thinking is false -%}<think></think>{%- else -%}<think>{%- endif -%}
{%- endif -%}
"""


def _to_json(value, separators=None):
    return json.dumps(value, ensure_ascii=False, separators=separators)


def compile_reference():
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = _to_json
    return environment.from_string(TEMPLATE)
