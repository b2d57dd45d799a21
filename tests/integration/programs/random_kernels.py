"""Random kernels without races, for comparing the ways that a kernel can run.

A kernel is a list of statements over three kinds of names: uniform ones (the same in all threads of a block), a thread's
own, and objects. Barriers stand only where control flow is uniform, and shared memory is read only between two of them,
so every way to run a kernel must give the same result. All arithmetic is unsigned.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

PRELUDE = """
struct Pair {
  unsigned a, b;
  __device__ void add(unsigned x) { a += x, b ^= a; }
  __device__ unsigned operator()(unsigned x) { return b += x; }
};
struct Made {
  unsigned a;
  const unsigned k;
  __device__ Made(unsigned x, unsigned y) : a(x), k(y) {}
  __device__ unsigned next() { return a++ * k; }
};
__device__ void bump(unsigned& a, unsigned x) { a = a * 5 + x; }
__device__ unsigned position() { return threadIdx.x + blockIdx.x * blockDim.x; }
"""
_HEAD = """extern "C" __global__ void {name}(unsigned* out, const unsigned* in, unsigned n, unsigned own, Pair given) {{
  __shared__ unsigned s[64];
  const unsigned t = threadIdx.x;
  unsigned sum = own + t;
  in += t;
  out += (blockIdx.x * blockDim.x + t) * 3;
  {body}
  out[0] = sum, out[1] = own, out[2] = given.a;
  {last}
}}
"""


@dataclass
class Names:
    """The names in scope."""

    uniform: list[str] = field(default_factory=lambda: ["n", "3u", "blockIdx.x", "blockDim.x"])
    mine: list[str] = field(default_factory=lambda: ["sum", "own"])  # those that may be assigned
    read: list[str] = field(default_factory=lambda: ["t", "threadIdx.x", "*in"])
    pairs: list[str] = field(default_factory=lambda: ["given"])
    made: list[str] = field(default_factory=list)

    def inner(self) -> Names:
        """A copy, for a block."""
        return replace(self, **{k: list(v) for k, v in vars(self).items()})


class Generator:
    """Writes one kernel; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.barriers = seed % 3 != 0
        self.count = 0
        self.body = "\n  ".join(self.block(Names(), 0, True, 9))

    def text(self, name: str, last: str = "") -> str:
        """The kernel under that name; `last` is put at its end."""
        return _HEAD.format(name=name, body=self.body, last=last)

    def new(self) -> str:
        self.count += 1
        return f"x{self.count}"

    def uniform(self, names: Names, depth: int = 0) -> str:
        """An expression with the same value in the whole block."""
        if depth > 1 or self.random.random() < 0.5:
            return self.random.choice(names.uniform)
        a, b = (self.uniform(names, depth + 1) for _ in range(2))
        return self.random.choice([f"({a} + {b})", f"({a} * {b})", f"min({a}, {b})", f"({a} >> 1)"])

    def value(self, names: Names, depth: int = 0) -> str:
        """Any expression."""
        if depth > 2 or self.random.random() < 0.3:
            return self.random.choice(
                names.uniform + names.mine * 2 + names.read + [f"{p}.a" for p in names.pairs]
            )
        a, b = (self.value(names, depth + 1) for _ in range(2))
        forms = [
            f"({a} + {b})",
            f"({a} * {b})",
            f"({a} ^ {b})",
            f"({a} < {b} ? {a} : {b})",
            f"in[({a}) & 63]",
        ]
        return self.random.choice([*forms, f"max({a}, {b})", "position()", f"(({a}) >> 3)"])

    def block(self, names: Names, depth: int, together: bool, length: int) -> list[str]:
        """Statements in a scope of their own; `together`: all threads of the block run them."""
        names, lines = names.inner(), []
        for _ in range(self.random.randint(length // 2 + 1, length)):
            lines += self.statement(names, depth, together)
        return lines

    def statement(self, names: Names, depth: int, together: bool) -> list[str]:
        made = [self.declaration, self.change, self.change]
        if together and self.barriers:
            made += [self.exchange, self.exchange]
        if depth < 3:
            made += [self.branch, self.loop, self.strides]
        return self.random.choice(made)(names, depth, together)

    def declaration(self, names: Names, depth: int, together: bool) -> list[str]:
        name, kind = self.new(), self.random.randrange(7)
        value, same = self.value(names), self.uniform(names)
        if kind == 0 and together:
            names.uniform.append(name)
            return [f"unsigned {name} = {same};"]
        if kind == 1:
            names.read += [f"{name}[0]", f"{name}[2]"]
            return [f"unsigned {name}[4] = {{{value}, {same}}};"]
        if kind == 2:
            names.pairs.append(name)
            return [self.random.choice([f"Pair {name} = {{{value}, {same}}};", f"Pair {name} = given;"])]
        if kind == 3:
            names.made.append(name)
            return [
                self.random.choice(
                    [f"Made {name}({value}, {same});", f"Made {name} = Made({same}, {value});"]
                )
            ]
        if kind == 4:
            names.read.append(f"*{name}")
            return [f"const unsigned* {name} = in + ({value} & 31);"]
        if kind == 5:
            target = self.random.choice(names.mine)
            names.mine.append(name)
            return [self.random.choice([f"unsigned& {name} = {target};", f"unsigned& {name}({target});"])]
        (names.read if self.random.random() < 0.3 else names.mine).append(name)
        return [f"unsigned {name} = {self.random.choice([value, same])};"]

    def change(self, names: Names, depth: int, together: bool) -> list[str]:
        value, target = self.value(names), self.random.choice(names.mine)
        changed = [name for name in names.uniform if name.startswith("x")]
        if changed and together and self.random.random() < 0.2:
            name = self.random.choice(changed)
            return [self.random.choice([f"{name} += {self.uniform(names)};", f"{name} >>= 1;"])]
        forms = [
            f"{target} += {value};",
            f"{target} ^= {value};",
            f"bump({target}, {value});",
            f"sum = sum * 31 + {value};",
        ]
        forms += [f"{p}.add({value});" for p in names.pairs] + [f"sum ^= {p}({value});" for p in names.pairs]
        return [self.random.choice(forms + [f"sum += {m}.next();" for m in names.made])]

    def exchange(self, names: Names, depth: int, together: bool) -> list[str]:
        name, value, shift = self.new(), self.value(names), self.uniform(names)
        names.mine.append(name)
        sync = "__syncthreads();"
        return [f"s[t] = {value};", sync, f"unsigned {name} = s[(t + {shift}) & 63];", sync]

    def branch(self, names: Names, depth: int, together: bool) -> list[str]:
        same = together and self.random.random() < 0.5
        a, b = (self.uniform(names) if same else self.value(names) for _ in range(2))
        if not same and self.random.random() < 0.1:
            return [f"if ({a} < {b}) {{ out[0] = sum; return; }}"]
        lines = [f"if ({a} < {b}) {{", *self.block(names, depth + 1, same, 3), "}"]
        if self.random.random() < 0.5:
            lines += ["else {", *self.block(names, depth + 1, same, 3), "}"]
        return lines

    def loop(self, names: Names, depth: int, together: bool) -> list[str]:
        name, same = self.new(), together and self.random.random() < 0.6
        rounds = f"({self.uniform(names) if same else self.value(names)} & 3)"
        if self.random.random() < 0.3:
            body = self.block(names, depth + 1, same, 3)
            return [f"unsigned {name} = {rounds};", "do {", *body, f"}} while ({name}-- > 0);"]
        inner = names.inner()
        inner.read.append(name)
        also = self.random.choice(["", "", ", own += 3u", ", ++in"])
        also = "" if also == ", ++in" and depth else also  # `in` stays within its array
        head = f"for (unsigned {name} = 0, end{name} = {rounds}; {name} < end{name}; ++{name}{also}) {{"
        return [head, *self.block(inner, depth + 1, same, 3), "}"]

    def strides(self, names: Names, depth: int, together: bool) -> list[str]:
        name = self.new()
        inner = names.inner()
        inner.read.append(name)
        head = f"for (unsigned {name} = t; {name} < {self.random.choice(['64u', '100u', 'n'])}; {name} += blockDim.x) {{"
        return [head, *self.block(inner, depth + 1, False, 3), "}"]
