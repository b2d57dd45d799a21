"""The end of the translation unit: the module's tables of kernels and variables (include/hmmemu/abi.h).

Names come from the parser; types, sizes and offsets from the C++ compiler, through templates in runtime_table.h.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence

from hmmemu.compiler.analysis import Analysis
from hmmemu.compiler.parse import Function
from hmmemu.compiler.rewrite import Global, Rewritten, tag
from hmmemu.errors import CompileError


def tables(analysis: Analysis, rewritten: Rewritten, name_expressions: Sequence[str]) -> str:
    """C++ text that defines `hmmemu_module()`. Raises CompileError for a name expression that names no kernel."""
    entries = _plain_entries(analysis) + [_expression_entry(analysis, e) for e in name_expressions]
    arrays, calls = "", ""
    for i, (name, expression, kernel, where) in enumerate(entries):
        arrays += _parameter_arrays(i, kernel)
        way, bound = analysis.ways[kernel], _bound(analysis, kernel)
        block = ", " + _block_function(expression, kernel) if way == "HMM_WAY_FISSION" else ""
        calls += f'# 1 "{where}"\n  hmm_describe<{expression}, {tag(analysis, kernel)}, {way}{block}>'
        calls += f"(hmm_kernels[{i}], {json.dumps(name)}, hmm_written_{i}, hmm_params_{i}, {bound}, "
        calls += f"{int(kernel in analysis.waits)});\n"
    fills = "".join(_global_entry(i, g) for i, g in enumerate(rewritten.globals))
    kernels, variables = len(entries), len(rewritten.globals)
    return f"""
# 1 "<tables>"
namespace {{
{arrays}hmm_kernel hmm_kernels[{kernels + 1}];
hmm_global hmm_globals[{variables + 1}];
const hmm_module hmm_tables = {{HMMEMU_ABI, {kernels}, {variables}, 0, hmm_kernels, hmm_globals}};
void hmm_fill() {{
{calls}# 1 "<tables>"
{fills}}}
}}
extern "C" __attribute__((visibility("default"))) const hmm_module* hmmemu_module(void) {{
  hmm_fill();
  return &hmm_tables;
}}
"""


def tags(analysis: Analysis) -> str:
    """Declarations, on one line, of the types that stand for kernels."""
    return " ".join(f"struct {tag(analysis, k)[2:]};" for k in analysis.ways)


def add_launch_bounds(analysis: Analysis, rewritten: Rewritten) -> None:
    """Keeps the bound's value beside the kernel, where the names in it can be seen."""
    for kernel in analysis.ways:
        asked = _asked_bound(analysis, kernel)
        if asked and not kernel.is_template:
            name = f"hmm_bound_{analysis.source.functions.index(kernel)}"
            rewritten.edits.insert(kernel.node.end_byte, f" constexpr unsigned {name} = unsigned({asked});")


def _asked_bound(analysis: Analysis, kernel: Function) -> str:
    for function in (kernel, *analysis.source.functions):
        if function is kernel or (function.is_kernel and function.qualified == kernel.qualified):
            for mark in function.marks:
                if mark.keyword == "__launch_bounds__":
                    return _first_argument(mark.argument)
    return ""


def _first_argument(arguments: str) -> str:
    depth = 0
    for i, c in enumerate(arguments):
        depth += (c in "(<[{") - (c in ")>]}")
        if c == "," and depth == 0:
            return arguments[:i]
    return arguments


def _bound(analysis: Analysis, kernel: Function) -> str:
    if kernel.is_template or not _asked_bound(analysis, kernel):
        return "HMM_MAX_THREADS"
    return "::".join(("", *kernel.scope, f"hmm_bound_{analysis.source.functions.index(kernel)}"))


Entry = tuple[str, str, Function, str]


def _plain_entries(analysis: Analysis) -> list[Entry]:
    """Kernels that are no templates, under their qualified name and, where it is unique, their plain one."""
    plain = [k for k in analysis.ways if not k.is_template]
    overloads = Counter(k.qualified for k in plain)
    short = Counter(k.name for k in plain)
    entries: list[Entry] = []
    for kernel in plain:
        if overloads[kernel.qualified] > 1:
            continue  # only a name expression can tell overloads apart
        entries.append((kernel.qualified, f"(&::{kernel.qualified})", kernel, "<tables>"))
        if kernel.scope and short[kernel.name] == 1:
            entries.append((kernel.name, f"(&::{kernel.qualified})", kernel, "<tables>"))
    return entries


def _expression_entry(analysis: Analysis, expression: str) -> Entry:
    """A kernel by an expression such as `ns::saxpy<float>`."""
    plain = expression.strip().lstrip("&").strip()
    base = re.sub(r"\s", "", plain.split("<")[0]).removeprefix("::")
    matches = [k for k in analysis.ways if base in (k.qualified, k.name)]
    if not matches:
        known = ", ".join(sorted({k.qualified for k in analysis.ways})) or "none"
        raise CompileError(
            f"name expression {expression!r} names no kernel of this source; its kernels: {known}"
        )
    kernel = max(matches, key=lambda k: k.is_template == ("<" in plain))
    where = f"name expression {expression}".replace("\\", "/").replace('"', "'")
    return expression, f"(&{plain})", kernel, where


def _block_function(expression: str, kernel: Function) -> str:
    """The same expression for the kernel's block function: its last name, before template arguments, has a prefix."""
    head, bracket, arguments = expression.partition("<")
    at = head.rindex(kernel.name)
    return head[:at] + "hmm_block_" + head[at:] + bracket + arguments


def _parameter_arrays(i: int, kernel: Function) -> str:
    rows = "".join(f"{{{json.dumps(p.name)}, {json.dumps(p.type)}}}, " for p in kernel.parameters)
    written = f"const hmm_written hmm_written_{i}[] = {{{rows}{{0, 0}}}};\n"
    return f"{written}hmm_param hmm_params_{i}[{len(kernel.parameters) + 1}];\n"


def _global_entry(i: int, variable: Global) -> str:
    at = f"::{variable.name}"
    return (
        f"  hmm_globals[{i}] = hmm_global{{{json.dumps(variable.name)}, {json.dumps(variable.type)}, "
        f"(void*)&{at}, sizeof({at}), {int(variable.constant)}, 0}};\n"
    )
