"""Numbers that say how easily a stranger finds the way through the source, of the working tree and of revisions.

    python -m tests.structure            # the working tree
    python -m tests.structure 184b8ee    # that revision beside the working tree

Everything is read from the source text and nothing is imported: `ast` finds functions, imports and calls, `tokenize`
finds comments. --list names the places that a number counts.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import tarfile
import tempfile
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("maskcls", "search_spaces", "tune")
DOCS = ("README.md", "CONTRIBUTING.md", "docs")  # CHANGELOG.md is left out: what was released is not rewritten
# What takes so long to import that a command's --help should not wait for it.
HEAVY = {
    "albumentations",
    "cleanlab",
    "cv2",
    "fastapi",
    "grpc",
    "httpx2",
    "huggingface_hub",
    "matplotlib",
    "mlflow",
    "numpy",
    "optuna",
    "optuna_dashboard",
    "pandas",
    "pyarrow",
    "prometheus_client",
    "pydantic",  # a recipe's model alone takes 0.3 s to build
    "ray",
    "rich",
    "scipy",
    "sklearn",
    "starlette",
    "timm",
    "torch",
    "torchvision",
    "uvicorn",
    "wandb",
}
# Folders whose steps and shapes want comments; each with the paths that it had before it was a folder.
COMMENTED = {
    "training": ("maskcls/training/",),
    "stores": ("maskcls/stores/", "maskcls/stores.py", "maskcls/models/feature_stores.py"),
    "selection": ("tune/selection/", "tune/choosing/"),
    "statistics": ("tune/statistics/", "tune/intervals.py", "tune/paired.py"),
}
# Words of an earlier, private language. A line break may stand between two of them; "_" is no letter: told_of counts.
OLD_WORDS = re.compile(r"(?<![a-z])(?:told|hangs\s+on|anew|a\s+row\s+a)(?![a-z])", re.IGNORECASE)
PRIVATE = re.compile(r"_[a-zA-Z]\w*")


@dataclass(frozen=True)
class Module:
    """One source file: where it stands below the root, and its text."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.text)

    @property
    def folder(self) -> str:
        """The folder that holds the file."""
        return self.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        """The dotted name that imports it."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @cached_property
    def functions(self) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
        """All functions and methods, nested ones too."""
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@dataclass(frozen=True)
class Source:
    """One state of the repository: the modules of its packages, and all texts in which words are searched."""

    modules: tuple[Module, ...]
    texts: Mapping[str, str]

    @classmethod
    def read(cls, root: Path) -> Source:
        """The source below a folder: every .py file of the packages and the tests, and the documents."""
        files = [file for package in (*PACKAGES, "tests") for file in sorted((root / package).rglob("*.py"))]
        found = [Module(file.relative_to(root).as_posix(), file.read_text()) for file in files]
        documents = [file for name in DOCS for file in _documents(root / name)]
        texts = {file.relative_to(root).as_posix(): file.read_text() for file in documents}
        skipped = ("tests/structure.py", "tests/test_structure.py")  # they name the old words
        texts |= {module.path: module.text for module in found if module.path not in skipped}
        return cls(tuple(module for module in found if not module.path.startswith("tests/")), texts)

    def within(self, *prefixes: str) -> list[Module]:
        """Modules whose path starts with one of the prefixes."""
        return [module for module in self.modules if module.path.startswith(prefixes)]


def _documents(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(path.rglob("*.md"))
    return [path] if path.is_file() else []


def files_by_folder(source: Source, package: str) -> dict[str, int]:
    """Count the .py files directly in each folder of a package. An empty `__init__.py` has nothing to read."""
    counts: dict[str, int] = {}
    for module in source.within(f"{package}/"):
        if module.path.endswith("/__init__.py") and not module.text.strip():
            continue
        counts[module.folder] = counts.get(module.folder, 0) + 1
    return counts


def longest_function(source: Source) -> tuple[int, str]:
    """Lines of the longest function from `def` to its end, docstring included, and where it stands."""
    return max(
        ((node.end_lineno or 0) - node.lineno + 1, f"{module.path}: {node.name}")
        for module in source.modules
        for node in module.functions
    )


def comment_share(modules: Iterable[Module]) -> float:
    """Lines that are or carry a comment, as a share of the lines that are not blank."""
    commented = lines = 0
    for module in modules:
        tokens = tokenize.generate_tokens(io.StringIO(module.text).readline)
        commented += sum(token.type == tokenize.COMMENT for token in tokens)
        lines += sum(bool(line.strip()) for line in module.text.splitlines())
    return commented / lines if lines else 0.0


def runs_of_a_fit(source: Source) -> list[str]:
    """Functions that run a fit in a folder to its end: on one object they call `save`, and `epochs` or `resume`."""
    found = []
    for module in source.modules:
        for node in module.functions:
            called = _methods_called(node)
            if any("save" in methods and methods & {"epochs", "resume"} for methods in called.values()):
                found.append(f"{module.path}: {node.name}")
    return found


def _methods_called(function: ast.AST) -> dict[str, set[str]]:
    """Methods that are called in a function, by the expression of the object."""
    called: dict[str, set[str]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called.setdefault(ast.unparse(node.func.value), set()).add(node.func.attr)
    return called


def light_imports_in_functions(source: Source) -> list[str]:
    """Import statements inside functions that defer nothing heavy, so they could stand at the top of the module."""
    heavy = _heavy_modules(source)
    found = []
    for module in source.modules:
        for node in _imports_in_functions(module):
            if not any(_is_heavy(name, heavy) for name in _imported_names(node)):
                found.append(f"{module.path}:{node.lineno}: {ast.unparse(node)}")
    return found


def imports_in_functions(source: Source) -> int:
    """Number of import statements inside functions."""
    return sum(len(_imports_in_functions(module)) for module in source.modules)


def _imports_in_functions(module: Module) -> list[ast.Import | ast.ImportFrom]:
    found = {
        node.lineno: node
        for function in module.functions
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    return [node for _, node in sorted(found.items())]


def _heavy_modules(source: Source) -> set[str]:
    """Modules of the source whose import loads something heavy, over however many others."""
    imports = {module.name: set(_names_at_top(module)) for module in source.modules}
    heavy: set[str] = set()
    while True:
        more = {name for name, loaded in imports.items() if any(_is_heavy(one, heavy) for one in loaded)} - heavy
        if not more:
            return heavy
        heavy |= more


def _is_heavy(name: str, heavy: set[str]) -> bool:
    """Whether importing a dotted name loads something heavy: itself, or a package above it."""
    parts = name.split(".")
    above = {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
    return parts[0] in HEAVY or name == "safetensors.torch" or bool(above & heavy)


def _names_at_top(module: Module) -> Iterator[str]:
    """Dotted names that are loaded when a module is imported."""
    nodes: list[ast.AST] = list(module.tree.body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from _imported_names(node)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            nodes += ast.iter_child_nodes(node)


def _imported_names(node: ast.Import | ast.ImportFrom) -> list[str]:
    """Dotted names that an import statement may load; of `from a import b` both a and a.b, which may be a module."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]


def old_words(source: Source) -> list[str]:
    """Places in source, tests and documents where a word of the earlier language stands."""
    found = []
    for path, text in source.texts.items():
        for match in OLD_WORDS.finditer(text):
            found.append(f"{path}:{text.count(chr(10), 0, match.start()) + 1}: {' '.join(match.group().split())}")
    return found


def private_uses(source: Source) -> list[str]:
    """Private names of Ray and Optuna in tune/: those that a module reads, sets or imports, but does not define."""
    found = []
    for module in source.within("tune/"):
        own = set(_names_defined(module))
        found += [f"{module.path}:{line}: {name}" for line, name in sorted(_private_names(module)) if name not in own]
    return found


def _names_defined(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node, ast.Name):
                yield node.id
            elif ast.unparse(node.value) in ("self", "cls"):  # an assignment to another object's name defines none here
                yield node.attr


def _private_names(module: Module) -> Iterator[tuple[int, str]]:
    """Line and name of each private attribute that is read or set, and of each private name in an import."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) != "os":
            if PRIVATE.fullmatch(node.attr):
                yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom):
            path = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from ((node.lineno, name) for name in path if PRIVATE.fullmatch(name))


def untyped_signatures(source: Source) -> list[str]:
    """Functions of tune/ that take a `Mapping[str, Any]`."""
    return [
        f"{module.path}:{node.lineno}: {node.name}"
        for module in source.within("tune/")
        for node in module.functions
        if any(
            one.annotation is not None and "Mapping[str, Any]" in ast.unparse(one.annotation)
            for one in _arguments(node)
        )
    ]


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    given = node.args
    return [*given.posonlyargs, *given.args, *given.kwonlyargs]


def string_subscripts(source: Source, prefix: str) -> list[str]:
    """Look-ups by a literal string, as in `record["epoch"]`: places where a typed record would have a field."""
    return [
        f"{module.path}:{node.lineno}: {ast.unparse(node)}"
        for module in source.within(prefix)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Subscript)
        and isinstance(node.slice, ast.Constant)
        and isinstance(node.slice.value, str)
        and not _is_type(node.value)
    ]


def _is_type(node: ast.expr) -> bool:
    """Whether a subscripted expression is a generic type, as in `Literal["max"]` or `list["Photo"]`."""
    name = ast.unparse(node).rpartition(".")[2]
    return (name[:1].isupper() and not name.isupper()) or name in ("list", "dict", "set", "tuple", "type", "frozenset")


def number_of_lines(source: Source, prefix: str) -> int:
    """Lines of the .py files below a folder."""
    return sum(
        text.count("\n") for path, text in source.texts.items() if path.startswith(prefix) and path.endswith(".py")
    )


def table_rows(source: Source) -> dict[str, str]:
    """What the table shows of one state of the source, by the name of its row."""
    rows = {}
    for package in ("tune", "maskcls"):
        counts = files_by_folder(source, package)
        fullest = max(counts, key=counts.__getitem__)
        rows[f"files in {package}/ itself"] = f"{counts[package]}"
        rows[f"files in the fullest folder of {package}/"] = f"{counts[fullest]} ({fullest})"
    lines, where = longest_function(source)
    rows["longest function, lines"] = f"{lines} ({where.rpartition('/')[2]})"
    for package in PACKAGES:
        rows[f"comments in {package}/, % of lines"] = f"{100 * comment_share(source.within(f'{package}/')):.1f}"
    for name, prefixes in COMMENTED.items():
        rows[f"comments in {name}, % of lines"] = f"{100 * comment_share(source.within(*prefixes)):.1f}"
    rows['copies of "resume, epochs, save"'] = f"{len(runs_of_a_fit(source))}"
    rows["imports inside functions"] = f"{imports_in_functions(source)}"
    rows["of them, those that defer nothing heavy"] = f"{len(light_imports_in_functions(source))}"
    rows["told, hangs on, anew, a row a"] = f"{len(old_words(source))}"
    rows["private names of Ray and Optuna in tune/"] = f"{len(private_uses(source))}"
    rows["signatures with Mapping[str, Any] in tune/"] = f"{len(untyped_signatures(source))}"
    rows["subscripts by a literal string in tune/"] = f"{len(string_subscripts(source, 'tune/'))}"
    rows["subscripts by a literal string in maskcls/"] = f"{len(string_subscripts(source, 'maskcls/'))}"
    for prefix in (*PACKAGES, "tests"):
        rows[f"lines of {prefix}/"] = f"{number_of_lines(source, f'{prefix}/'):,}"
    return rows


def source_at(revision: str) -> Source:
    """The source of a git revision, unpacked into a temporary folder."""
    archive = subprocess.run(["git", "archive", revision], cwd=ROOT, capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
        return Source.read(Path(folder))


def table(columns: Mapping[str, Mapping[str, str]]) -> str:
    """Plain text: one row per number, one column per state of the source."""
    names = list(next(iter(columns.values())))
    width = max(map(len, names))
    widths = {title: max(len(title), *map(len, rows.values())) for title, rows in columns.items()}
    lines = [" " * width + "".join(f"  {title:<{widths[title]}}" for title in columns)]
    lines += [
        f"{name:<{width}}" + "".join(f"  {rows[name]:<{widths[title]}}" for title, rows in columns.items())
        for name in names
    ]
    return "\n".join(line.rstrip() for line in lines)


# What --list names place by place.
LISTED: dict[str, Callable[[Source], list[str]]] = {
    "fits": runs_of_a_fit,
    "imports": light_imports_in_functions,
    "words": old_words,
    "private": private_uses,
    "signatures": untyped_signatures,
    "subscripts": lambda source: string_subscripts(source, ""),
}


def main() -> None:
    """Print the table of the revisions that were named and of the working tree, or the places behind one number."""
    parser = argparse.ArgumentParser(prog="python -m tests.structure", description=__doc__.splitlines()[0])
    parser.add_argument(
        "revisions", nargs="*", metavar="REV", help="git revisions, each a column before the working tree's"
    )
    parser.add_argument(
        "--list", choices=sorted(LISTED), help="name the places in the working tree that a number counts"
    )
    asked = parser.parse_args()
    if asked.list:
        print("\n".join(LISTED[asked.list](Source.read(ROOT))))
        return
    columns = {revision: table_rows(source_at(revision)) for revision in asked.revisions}
    print(table({**columns, "working tree": table_rows(Source.read(ROOT))}))


if __name__ == "__main__":
    main()
