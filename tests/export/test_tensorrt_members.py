"""Every name and argument of TensorRT's API that kdx uses is one that 10.16 and 11.4 both have.

tests/export/tensorrt_members.json is the table: what kdx uses, as introspection of both bindings showed it. The sources
are read as syntax trees, in which each variable of VARIABLES holds an object of its class.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdx.export.tensorrt_plan import COMPATIBILITY, BuildPlan

ROOT = Path(__file__).parents[2]
SOURCES = [ROOT / "export/tensorrt.py", ROOT / "export/deferred.py", ROOT / "kdx/runtime/tensorrt.py"]
TABLE = json.loads(Path(__file__).with_name("tensorrt_members.json").read_text())
RTX_ONLY = TABLE["rtx_only"]
MEMBERS: dict[str, str] = {**TABLE["members"], **RTX_ONLY["members"]}
ENUMS: dict[str, list[str]] = {**TABLE["enums"], **RTX_ONLY["enums"]}
CLASSES = {name.partition(".")[0] for name in MEMBERS}
VARIABLES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "tensor": "ITensor",
    "parser": "OnnxParser",
    "problem": "ParserError",
    "config": "IBuilderConfig",
    "optimization": "IOptimizationProfile",
    "cache": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "runtime_config": "IRuntimeConfig",
    "context": "IExecutionContext",
}
MODULE = {"__version__", "__name__"}  # of the module `trt` itself


def _uses(tree: ast.AST) -> Iterator[tuple[str, ast.Attribute, ast.Call | None]]:
    """Each use of TensorRT: `Class.member`, `Enum.NAME` or a class alone; with the call, where it is one."""
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        base, call = _variable(node.value), calls.get(id(node))
        if base in VARIABLES:
            yield f"{VARIABLES[base]}.{node.attr}", node, call
        elif base == "trt" and node.attr not in MODULE:
            yield node.attr, node, call
        elif isinstance(node.value, ast.Attribute) and _variable(node.value.value) == "trt" and base:
            yield f"{base}.{node.attr}", node, call


def _variable(node: ast.expr) -> str:
    """`engine` for engine, self.engine and self._engine; empty for what is no variable."""
    if isinstance(node, ast.Name):
        return node.id
    return node.attr.lstrip("_") if isinstance(node, ast.Attribute) and node.attr not in MODULE else ""


def _fault(name: str, node: ast.Attribute, call: ast.Call | None) -> str:
    """Why this use is not one that both versions have; empty if it is."""
    owner, _, member = name.partition(".")
    if not member:
        known = owner in CLASSES | set(ENUMS)
        if call is not None:
            return _argument_fault(f"{owner}.__init__", call)
        return "" if known else "is in no table"
    if owner in ENUMS:
        return "" if member in ENUMS[owner] or member == "__members__" else "is no member of the enum"
    if name not in MEMBERS:
        return "" if name == "ILogger.__init__" else "is in no table"
    writes = isinstance(node.ctx, ast.Store)
    if MEMBERS[name].startswith("property"):
        return "is read-only" if writes and "write" not in MEMBERS[name] else ""
    return _argument_fault(name, call) if call is not None else "is a method that is not called"


def _argument_fault(name: str, call: ast.Call) -> str:
    if name not in MEMBERS:
        return "is in no table"
    parameters = _parameters(MEMBERS[name])
    positional = call.args
    if name == "ILogger.__init__":
        positional = positional[1:]  # called as a plain function, so with self
    named = [keyword.arg for keyword in call.keywords]
    given = parameters[: len(positional)] + [str(name) for name in named]
    required = _parameters(MEMBERS[name], required=True)
    if len(positional) > len(parameters) or not set(given) <= set(parameters) or set(required) - set(given):
        return f"takes {parameters}, is given {len(positional)} and {named}"
    return ""


def _parameters(signature: str, *, required: bool = False) -> list[str]:
    inside = signature[signature.index("(") + 1 : signature.rindex(")") if "->" not in signature else None]
    inside = inside.split(") ->")[0].rstrip(")")
    parameters = re.findall(r"(\w+): [\w\[\], .]+?( = [^,]+)?(?=, \w+:|$)", inside)
    return [name for name, default in parameters if name != "self" and not (required and default)]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_only_what_10_16_and_11_4_both_have_is_used(source: Path) -> None:
    faults = [
        f"{source.name}:{node.lineno}: {name} {fault}"
        for name, node, call in _uses(ast.parse(source.read_text()))
        if (fault := _fault(name, node, call))
    ]
    assert not faults


@pytest.mark.parametrize(
    "code",
    [
        "config.set_flag(trt.BuilderFlag.FP16)",
        "trt.BuilderFlag.FP16",
        "engine.device_memory_size",
        "builder.create_network()\nengine.num_io_tensors = 3",
        "context.execute_async_v3()",
        "config.set_timing_cache(cache, ignore=True)",
        "trt.Refitter(engine, logger)",
        "profile = builder.create_optimization_profile(3)",
    ],
)
def test_a_use_that_one_version_lacks_is_found(code: str) -> None:
    assert [name for name, node, call in _uses(ast.parse(code)) if _fault(name, node, call)]


def test_the_table_holds_no_more_than_is_used() -> None:
    used = {name for source in SOURCES for name, _, _ in _uses(ast.parse(source.read_text()))}
    used |= {f"{name}.__init__" for name in used if name in CLASSES}
    assert set(MEMBERS) - used == {"ILogger.log"}  # which kdx's logger overrides


def test_names_in_plans_are_in_the_tables() -> None:
    plan = BuildPlan(image=(), text=())
    assert set(plan.cleared_flags) <= set(ENUMS["BuilderFlag"])
    assert set(COMPATIBILITY) <= set(ENUMS["HardwareCompatibilityLevel"])


@pytest.mark.parametrize("version", ["10.16.1.11", "11.4.0.106"])
def test_the_fake_has_nothing_that_tensorrt_lacks_and_its_numbers(
    version: str, fake_gpu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT", version)
    fake = importlib.import_module("tensorrt")
    aliases = {"IParserError": "ParserError"}
    for name, value in vars(fake).items():
        if isinstance(value, type) and value.__module__ == fake.__name__ and not issubclass(value, int):
            for member in [m for m in vars(value) if not m.startswith("_") and m != "Severity"]:
                assert f"{aliases.get(name, name)}.{member}" in MEMBERS
    for name, number in TABLE["numbers"].items():
        enum, member = name.split(".")
        assert getattr(fake, enum)[member] == number[version[:2]]


def test_tensorrt_rtx_as_it_is_installed_has_the_same_members() -> None:
    rtx: Any = pytest.importorskip("tensorrt_rtx")
    for name, signature in MEMBERS.items():
        owner, member = name.split(".")
        found = getattr(getattr(rtx, owner), member)
        if signature.startswith("property"):
            continue
        documented = [
            _parameters(line)
            for line in found.__doc__.replace("typing.", "").splitlines()
            if f"{member}(self" in line
        ]
        named = [[p for p in parameters if not p.startswith("arg")] for parameters in documented]
        assert any(_parameters(signature) == each for each in named), (name, documented)
    for enum, members in ENUMS.items():
        assert set(members) <= set(getattr(rtx, enum).__members__)
