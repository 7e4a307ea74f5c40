"""Every name that is used of TensorRT exists in the bindings of all its versions that are meant to work.

Reads the code, and compares it with the lists that ``tensorrt_api/extract.py`` has made of the real bindings.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LISTS = Path(__file__).with_name("tensorrt_api")
SOURCES = ("sdk/dartblur/backends/trt.py", "sdk/dartblur/backends/trt_engine.py", "export/dartblur_export/engine.py")

CLASS_OF = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "runtime": "Runtime",
}
"""What an untyped parameter of this name is."""

Api = dict[str, dict[str, str | None]]
"""``class: {member: class of what it gives}``; ``-`` is the module."""
Use = tuple[str, str]
"""Class and member."""


def read_list(path: Path) -> Api:
    api: Api = {}
    for line in path.read_text().splitlines():
        name, *members = line.split(" ")
        api[name] = {member: gives or None for member, _, gives in (member.partition(">") for member in members)}
    return api


APIS = {path.stem: read_list(path) for path in sorted(LISTS.glob("*.txt"))}


@dataclass(frozen=True)
class Kind:
    """What an expression is: ``module``; a ``class`` or ``object`` of that name; or a ``method`` that gives one."""

    what: str
    name: str = ""


@dataclass
class Reader(ast.NodeVisitor):
    """Follows TensorRT's objects through assignments and calls, and notes what is asked of them.

    Attributes:
        api: which classes and methods there are.
        uses: what was found, with its line, by the name that the module goes by: ``trt`` or ``rtx``.
    """

    api: Api
    uses: dict[str, dict[Use, int]] = field(default_factory=lambda: {"trt": {}, "rtx": {}})
    module: str = "trt"
    names: dict[str, Kind] = field(default_factory=dict)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outside, module = dict(self.names), self.module
        for argument in node.args.args:
            untyped = argument.annotation is None or ast.unparse(argument.annotation) == "Any"
            self.names.pop(argument.arg, None)
            if argument.arg in ("trt", "rtx"):
                self.module = argument.arg
                self.names[argument.arg] = Kind("module")
            elif untyped and argument.arg in CLASS_OF:
                self.names[argument.arg] = Kind("object", CLASS_OF[argument.arg])
        self.generic_visit(node)
        # What is kept in an object is known to its other methods.
        kept = {name: kind for name, kind in self.names.items() if name.startswith("self.")}
        self.names, self.module = outside | kept, module

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            if (kind := self.kind(base)) and kind.what == "class":
                for method in node.body:
                    if isinstance(method, ast.FunctionDef):
                        self.note(kind.name, method.name, method)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=True))
            for place, value in pairs:
                name = ast.unparse(place)
                if kind := self.kind(value):
                    self.names[name] = kind
                else:
                    self.names.pop(name, None)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.generic_visit(node)
        if kind := self.kind(node.value):
            self.names[node.target.id] = kind

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        owner = self.kind(node.value)
        if owner and owner.what != "method":
            self.note("-" if owner.what == "module" else owner.name, node.attr, node)

    def note(self, owner: str, member: str, node: ast.AST) -> None:
        if not member.startswith("_"):
            self.uses[self.module].setdefault((owner, member), getattr(node, "lineno", 0))

    def kind(self, node: ast.expr) -> Kind | None:
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        if isinstance(node, ast.Attribute):
            if known := self.names.get(ast.unparse(node)):
                return known
            owner = self.kind(node.value)
            if owner is None:
                return None
            if owner.what == "module":
                return Kind("class", node.attr) if node.attr in self.api else None
            gives = self.api.get(owner.name, {}).get(node.attr)
            return Kind("method", gives) if gives else None
        if isinstance(node, ast.Call):
            called = self.kind(node.func)
            return Kind("object", called.name) if called and called.what in ("class", "method") else None
        return None


def uses_of(source: str) -> dict[str, dict[Use, int]]:
    # Classes and what methods give are taken from all versions: a name that one of them lacks is what is looked for.
    union: Api = {}
    for api in APIS.values():
        for name, members in api.items():
            known = union.setdefault(name, {})
            for member, gives in members.items():
                known[member] = known.get(member) or gives
    reader = Reader(union)
    reader.visit(ast.parse(source))
    return reader.uses


def missing(source: str, version: str) -> list[str]:
    """Names that the code uses and a version lacks."""
    api, uses = APIS[version], uses_of(source)
    # What goes by the name rtx is asked of TensorRT-RTX alone.
    asked = uses["trt"] | (uses["rtx"] if version.startswith("rtx") else {})
    return [
        f"line {line}: {'' if owner == '-' else owner + '.'}{member}"
        for (owner, member), line in asked.items()
        if member not in api.get(owner, {})
    ]


@pytest.mark.parametrize("version", APIS)
@pytest.mark.parametrize("source", SOURCES)
def test_every_name_is_there(source: str, version: str) -> None:
    path = ROOT / source
    assert path.is_file()
    assert missing(path.read_text(), version) == []


def test_both_ends_of_the_versions_are_among_the_lists() -> None:
    assert {"10.3.0", "11.4.0.106"} <= set(APIS)
    assert any(version.startswith("rtx-") for version in APIS)


def test_the_reader_sees_what_the_backend_does() -> None:
    """Or else a change of style would blind it without a word."""
    found = set(uses_of((ROOT / SOURCES[1]).read_text())["trt"])
    assert found >= {
        ("-", "ILogger"),
        ("-", "Runtime"),
        ("ILogger", "log"),
        ("ILogger", "ERROR"),
        ("Runtime", "deserialize_cuda_engine"),
        ("ICudaEngine", "create_execution_context"),
        ("ICudaEngine", "get_tensor_dtype"),
        ("ICudaEngine", "get_tensor_name"),
        ("ICudaEngine", "num_io_tensors"),
        ("IExecutionContext", "set_input_shape"),
        ("IExecutionContext", "get_tensor_shape"),
        ("IExecutionContext", "set_tensor_address"),
        ("IExecutionContext", "execute_async_v3"),
        ("DataType", "UINT8"),
    }
    building = set(uses_of((ROOT / SOURCES[2]).read_text())["trt"])
    assert building >= {("Builder", "build_serialized_network"), ("OnnxParser", "parse"), ("Builder", "create_network")}


@pytest.mark.parametrize(
    ("code", "lacking"),
    [
        ("trt.Runtyme(log)", "Runtyme"),
        ("trt.BuilderFlag.FP16", "BuilderFlag.FP16"),
        ("flags = trt.BuilderFlag\n    flags.FP16", "BuilderFlag.FP16"),
        ("runtime = trt.Runtime(log)\n    runtime.deserialize_cuda_engine(b'').execute_v2()", "ICudaEngine.execute_v2"),
        (
            "self.c = trt.Runtime(0).deserialize_cuda_engine(0)\n    self.c.create_execution_context().execute()",
            "IExecutionContext.execute",
        ),
        ("builder, x = trt.Builder(0), 1\n    builder.max_batch_size", "Builder.max_batch_size"),
        ("config.set_workspace(3)", "IBuilderConfig.set_workspace"),
        (
            "if (n := trt.Builder(0).create_network(0)):\n        n.num_optimization_profiles",
            "INetworkDefinition.num_optimization_profiles",
        ),
        ("class L(trt.ILogger):\n        def write(self, a):\n            pass", "ILogger.write"),
    ],
)
def test_names_that_are_gone_are_found(code: str, lacking: str) -> None:
    source = f"def build(self, trt, log, config: Any):\n    {code}\n"
    assert [name.partition(": ")[2] for name in missing(source, "11.4.0.106")] == [lacking]


def test_names_of_one_version_are_told_apart() -> None:
    old = "def f(trt):\n    trt.BuilderFlag.FP16\n"
    assert missing(old, "10.3.0") == []
    assert missing(old, "11.4.0.106") == ["line 2: BuilderFlag.FP16"]
    ahead = "def f(rtx, config: Any):\n    rtx.ComputeCapability.SM86\n    config.set_compute_capability(1, 0)\n"
    assert missing(ahead, "10.3.0") == []
    assert missing(ahead, next(version for version in APIS if version.startswith("rtx"))) == []
