"""Compares two OpenAPI documents, 3.0 or 3.1: what of the first does the second not offer?

Request schemas may take more than the contract's and must not ask for more. Response schemas must promise no less. Descriptions,
examples, defaults, formats and bounds are not compared.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Iterator

PREFIX = "#/components/schemas/"


@dataclass
class Shape:
    """A schema with its references followed, its `allOf` merged and its ways of saying null made one."""

    #: Component it was referred to by, if it was.
    name: str | None = None
    types: set[str] = field(default_factory=set)
    nullable: bool = False
    properties: dict[str, Any] = field(default_factory=dict)
    required: set[str] = field(default_factory=set)
    enum: set[str] | None = None
    items: Any = None
    #: The alternatives of `oneOf` or `anyOf`, null left out.
    options: list[Any] = field(default_factory=list)

    @property
    def anything(self) -> bool:
        return not (self.types or self.properties or self.options or self.enum)


class Document:
    def __init__(self, document: dict):
        self.document = document
        self.schemas: dict[str, Any] = document["components"]["schemas"]

    def shape(self, schema: dict) -> Shape:
        if "$ref" in schema:
            name = schema["$ref"].removeprefix(PREFIX)
            shape = self.shape(self.schemas[name])
            shape.name = name
            return shape
        shape = Shape()
        for part in schema.get("allOf", []):
            self._merge(shape, self.shape(part), only=len(schema["allOf"]) == 1)
        types = schema.get("type", [])
        shape.types |= {types} if isinstance(types, str) else set(types)
        shape.nullable |= schema.get("nullable", False) or "null" in shape.types
        shape.types.discard("null")
        shape.properties |= schema.get("properties", {})
        shape.required |= set(schema.get("required", []))
        if "enum" in schema or "const" in schema:
            shape.enum = set(schema.get("enum", [schema.get("const")])) - {None}
        shape.items = schema.get("items", shape.items)
        self._alternatives(shape, schema.get("oneOf", []) + schema.get("anyOf", []))
        return shape

    def _merge(self, shape: Shape, part: Shape, only: bool):
        shape.name = part.name if only else None
        shape.types |= part.types
        shape.nullable |= part.nullable
        shape.properties |= part.properties
        shape.required |= part.required
        shape.enum = part.enum if shape.enum is None else shape.enum
        shape.items = shape.items or part.items
        shape.options += part.options

    def _alternatives(self, shape: Shape, options: list[dict]):
        kept = [option for option in options if option.get("type") != "null"]
        shape.nullable |= len(kept) < len(options) or any(self.shape(option).nullable for option in kept)
        if len(kept) == 1 and shape.anything:
            only = self.shape(kept[0])
            self._merge(shape, only, only=True)
        else:
            shape.options += kept

    def operations(self) -> Iterator[tuple[str, str, dict]]:
        for path, item in self.document["paths"].items():
            for method in ("get", "post", "put", "patch", "delete", "head", "options"):
                if method in item:
                    yield path, method, item[method]

    def used_by(self, kind: str) -> set[str]:
        """Names of the components that requests (`request`) or responses (`response`) are made of."""
        found: set[str] = set()
        for _, _, operation in self.operations():
            roots = [operation.get("requestBody", {})] if kind == "request" else list(operation["responses"].values())
            for root in roots:
                self._collect(root, found)
        return found

    def _collect(self, node: Any, found: set[str]):
        if isinstance(node, list):
            for entry in node:
                self._collect(entry, found)
        elif isinstance(node, dict):
            name = node["$ref"].removeprefix(PREFIX) if isinstance(node.get("$ref"), str) else None
            if name and name not in found:
                found.add(name)
                self._collect(self.schemas[name], found)
            self._collect(list(node.values()), found)


def differences(contract: dict, offered: dict) -> list[str]:
    """What `offered` lacks of `contract`: one line each, sorted, `place: what`."""
    return sorted(set(_Comparison(Document(contract), Document(offered)).run()))


class _Comparison:
    def __init__(self, theirs: Document, ours: Document):
        self.theirs, self.ours = theirs, ours

    def run(self) -> Iterator[str]:
        offered = {(path, method): operation for path, method, operation in self.ours.operations()}
        for path, method, operation in self.theirs.operations():
            place = f"{method.upper()} {path}"
            if (path, method) in offered:
                yield from self.operation(place, operation, offered[path, method])
            else:
                yield f"{place}: missing"
        requests, responses = self.theirs.used_by("request"), self.theirs.used_by("response")
        # What no operation uses counts as an answer.
        unused = self.theirs.schemas.keys() - requests - responses
        for kind, names in (("request", requests), ("response", responses | unused)):
            for name in names:
                if name not in self.ours.schemas:
                    yield f"{name}: missing"
                    continue
                theirs, ours = self.theirs.shape(self.theirs.schemas[name]), self.ours.shape(self.ours.schemas[name])
                yield from self.schema(name, theirs, ours, kind)

    def operation(self, place: str, theirs: dict, ours: dict) -> Iterator[str]:
        if theirs["operationId"] != ours.get("operationId"):
            yield f"{place}: operationId is {ours.get('operationId')}"
        yield from self.contents(f"{place} request", theirs.get("requestBody", {}), ours.get("requestBody", {}), "request")
        for status, response in theirs["responses"].items():
            if status in ours["responses"]:
                yield from self.contents(f"{place} {status}", response, ours["responses"][status], "response")
            else:
                yield f"{place} {status}: missing"

    def contents(self, place: str, theirs: dict, ours: dict, kind: str) -> Iterator[str]:
        for media, content in theirs.get("content", {}).items():
            if media not in ours.get("content", {}):
                yield f"{place} {media}: missing"
                continue
            wanted = self.theirs.shape(content["schema"])
            found = self.ours.shape(ours["content"][media]["schema"])
            # A body may be one of several: the contract's among them is enough.
            if not any(self._same(wanted, option, kind) for option in [found, *self._choices(self.ours, found)]):
                yield f"{place} {media}: is {self._title(found)}, not {self._title(wanted)}"

    def schema(self, place: str, theirs: Shape, ours: Shape, kind: str) -> Iterator[str]:
        if theirs.anything or ours.anything:
            if not ours.anything and kind == "request" or not theirs.anything:
                yield f"{place}: is {self._title(ours)}, not {self._title(theirs)}"
            return
        wider, narrower = (ours, theirs) if kind == "request" else (theirs, ours)
        if narrower.nullable and not wider.nullable:
            yield f"{place}: is {'not ' if kind == 'request' else ''}nullable"
        if theirs.options or ours.options:
            yield from self.options(place, theirs, ours, kind)
            return
        yield from self.values(place, theirs, ours, kind)
        for name, schema in theirs.properties.items():
            inner = f"{place}.{name}"
            if name in ours.properties:
                found = self.ours.shape(ours.properties[name])
                yield from self.nested(inner, self.theirs.shape(schema), found, kind)
            else:
                yield f"{inner}: missing"
        for name in theirs.required - ours.required:
            yield f"{place}.{name}: not required"
        if kind == "request":
            for name in ours.required - theirs.required:
                yield f"{place}.{name}: required"
        if theirs.items is not None:
            found = self.ours.shape(ours.items or {})
            yield from self.nested(f"{place}[]", self.theirs.shape(theirs.items), found, kind)

    def nested(self, place: str, theirs: Shape, ours: Shape, kind: str) -> Iterator[str]:
        """As `schema`; components of one name are compared once, by that name."""
        if theirs.name is None or theirs.name != ours.name:
            yield from self.schema(place, theirs, ours, kind)
        elif theirs.nullable and not ours.nullable and kind == "request":
            yield f"{place}: is not nullable"

    def values(self, place: str, theirs: Shape, ours: Shape, kind: str) -> Iterator[str]:
        wanted, found = self._types(theirs), self._types(ours)
        if not (wanted <= found if kind == "request" else wanted == found):
            yield f"{place}: type is {sorted(found)}, not {sorted(wanted)}"
        if ours.enum is not None and (theirs.enum is None or not theirs.enum <= ours.enum):
            yield f"{place}: enum is {sorted(ours.enum)}, not {sorted(theirs.enum or [])}"
        elif kind == "response" and theirs.enum is not None and ours.enum != theirs.enum:
            yield f"{place}: enum is {sorted(ours.enum or [])}, not {sorted(theirs.enum)}"

    def options(self, place: str, theirs: Shape, ours: Shape, kind: str) -> Iterator[str]:
        """Each of the contract's alternatives must be among ours; in responses none may come beside them."""
        # Whether null is among them was compared before.
        plain = replace(theirs, nullable=False), replace(ours, nullable=False)
        wanted, offered = self._choices(self.theirs, plain[0]), self._choices(self.ours, plain[1])
        for shape in wanted:
            if not any(self._same(shape, option, kind) for option in offered):
                yield f"{place}: lacks {self._title(shape)}"
        if kind == "response":
            for option in offered:
                if not any(self._same(shape, option, kind) for shape in wanted):
                    yield f"{place}: may also be {self._title(option)}"

    @staticmethod
    def _choices(document: Document, shape: Shape) -> list[Shape]:
        """The alternatives that a value may be; the shape itself where it has none."""
        return [document.shape(option) for option in shape.options] or [shape]

    def _same(self, theirs: Shape, ours: Shape, kind: str) -> bool:
        if theirs.name is not None and theirs.name == ours.name:
            return True
        return not list(self.schema("", theirs, ours, kind))

    @staticmethod
    def _types(shape: Shape) -> set[str]:
        types = set(shape.types)
        if not types and shape.properties:
            types = {"object"}
        return types | {"integer"} if "number" in types else types

    @staticmethod
    def _title(shape: Shape) -> str:
        if shape.name:
            return shape.name
        if shape.anything:
            return "anything"
        if shape.options:
            return "one of several"
        inner = f" of {shape.items['$ref'].removeprefix(PREFIX)}" if "$ref" in (shape.items or {}) else ""
        named = f" {sorted(shape.enum)}" if shape.enum else ""
        return "/".join(sorted(shape.types)) + inner + named
