"""Reads a Bicep file into the same form as an ARM template: the plain part of the language that deploy/azure keeps to.

Parameters, variables, resources and outputs become expressions of `expressions`; a resource that is named becomes its id or a
reference to its state, and what is referred to becomes what is depended on, as the Bicep compiler does it.
"""

import re

from expressions import Problem, call, text

TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*)|(?P<newline>\n)|(?P<space>[ \t\r]+)
    |(?P<multi>'''\n?(?P<lines>.*?)''')|(?P<string>'(?:\\.|\$\{(?:[^}']|'[^']*')*\}|[^'\\\n])*')
    |(?P<number>\d+)|(?P<word>[A-Za-z_]\w*)|(?P<sign>==|!=|&&|\|\||[-@(){}\[\].,:?!=])""",
    re.VERBOSE | re.DOTALL,
)
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "'": "'", "\\": "\\", "$": "$"}
OPERATORS = {"||": "or", "&&": "and", "==": "equals"}


class Reader:
    def __init__(self, source):
        self.tokens, self.at, newline = [], 0, True
        place = 0
        while place < len(source):
            match = TOKEN.match(source, place)
            if not match:
                raise Problem(f"not understood: {source[place:place + 60]!r}")
            place = match.end()
            kind = match.lastgroup if match.lastgroup != "lines" else "multi"
            if kind == "newline":
                newline = True
            elif kind not in ("comment", "space"):
                kind = "multi" if match["multi"] else kind
                self.tokens.append((kind, match["lines"] if kind == "multi" else match[0], newline))
                newline = False
        self.tokens.append(("end", "", True))
        self.symbols = {}

    def next(self, *wanted):
        kind, token, newline = self.tokens[self.at]
        return token in wanted and kind in ("sign", "word") and not (newline and token in "([?.")

    def take(self, wanted=None):
        kind, token, _ = self.tokens[self.at]
        if wanted is not None and token != wanted:
            raise Problem(f"expected {wanted!r}, found {token!r} after {[t[1] for t in self.tokens[max(0, self.at - 6):self.at]]}")
        self.at += 1
        return kind, token

    def expression(self):
        condition = self.binary(0)
        if not self.next("?"):
            return condition
        self.take("?")
        yes = self.expression()
        self.take(":")
        return call("if", condition, yes, self.expression())

    def binary(self, level):
        if level == len(OPERATORS):
            return self.unary()
        sign, name = list(OPERATORS.items())[level]
        found = self.binary(level + 1)
        while self.next(sign):
            self.take(sign)
            found = call(name, found, self.binary(level + 1))
        return found

    def unary(self):
        if self.next("-"):
            self.take("-")
            return text(-int(self.take()[1]))
        found = self.primary()
        while self.next(".", "["):
            if self.take()[1] == ".":
                found = ("member", found, text(self.take()[1]))
            else:
                found = ("member", found, self.expression())
                self.take("]")
        return found

    def primary(self):
        kind, token = self.take()
        match kind, token:
            case "multi", _:
                return text(token)
            case "string", _:
                return self.string(token)
            case "number", _:
                return text(int(token))
            case "sign", "(":
                found = self.expression()
                self.take(")")
                return found
            case "sign", "[":
                return ("array", self.until("]"))
            case "sign", "{":
                pairs = []
                while not self.next("}"):
                    if self.next(","):
                        self.take(",")
                        continue
                    kind, key = self.take()
                    key = self.string(key)[1] if kind == "string" else key
                    self.take(":")
                    pairs.append((key, self.expression()))
                self.take("}")
                return ("object", pairs)
            case "word", "true" | "false":
                return text(token == "true")
            case "word", "null":
                return call("null")
            case "word", _ if self.next("("):
                self.take("(")
                return call(token, *self.until(")"))
            case "word", _:
                return ("symbol", token)
        raise Problem(f"not an expression: {token!r}")

    def until(self, end):
        items = []
        while self.tokens[self.at][1] != end or self.tokens[self.at][0] != "sign":
            if self.next(","):
                self.take(",")
                continue
            items.append(self.expression())
        self.take(end)
        return items

    def string(self, token):
        """A text; one with values in it becomes a call of `format`."""
        pattern, values, inner = "", [], token[1:-1]
        while inner:
            if inner[0] == "\\":
                pattern, inner = pattern + ESCAPES[inner[1]].replace("{", "{{"), inner[2:]
            elif inner.startswith("${"):
                depth, end, quoted = 1, 2, False
                while depth:
                    quoted ^= inner[end] == "'"
                    depth += 0 if quoted else {"{": 1, "}": -1}.get(inner[end], 0)
                    end += 1
                nested = Reader(inner[2 : end - 1])
                pattern, inner = pattern + f"{{{len(values)}}}", inner[end:]
                values.append(nested.expression())
                nested.take("")
            else:
                pattern, inner = pattern + {"{": "{{", "}": "}}"}.get(inner[0], inner[0]), inner[1:]
        if not values:
            return text(pattern.replace("{{", "{").replace("}}", "}"))
        return call("format", text(pattern), *values)

    def declarations(self):
        decorators = {}
        while self.tokens[self.at][0] != "end":
            _, word = self.take()
            if word == "@":
                name = self.take()[1]
                self.take("(")
                decorators[name] = self.until(")")[0]
                continue
            if word == "targetScope":
                self.take("=")
                if self.take()[1] != "'resourceGroup'":
                    raise Problem("a deployment to a resource group is expected")
                continue
            _, name = self.take()
            yield word, name, decorators
            decorators = {}


def read(source):
    reader = Reader(source)
    parameters, variables, resources, outputs = {}, {}, {}, {}
    for word, name, decorators in reader.declarations():
        about = {key: value[1] for key, value in decorators.items() if value[0] == "value"}
        if word == "param":
            _, kind = reader.take()
            default = None
            if reader.next("="):
                reader.take("=")
                default = reader.expression()
            allowed = [item[1] for item in decorators["allowed"][1]] if "allowed" in decorators else None
            parameters[name] = {
                "type": kind,
                "default": default,
                "allowed": allowed,
                "min": about.get("minValue"),
                "max": about.get("maxValue"),
                "description": about.get("description"),
            }
        elif word == "var":
            reader.take("=")
            variables[name] = reader.expression()
        elif word == "output":
            _, kind = reader.take()
            reader.take("=")
            outputs[name] = {"type": kind, "value": reader.expression(), "description": about.get("description")}
        elif word == "resource":
            kind, version = reader.take()[1][1:-1].split("@")
            existing = reader.next("existing") and bool(reader.take("existing"))
            reader.take("=")
            condition = text(True)
            if reader.next("if"):
                reader.take("if")
                reader.take("(")
                condition = reader.expression()
                reader.take(")")
            shape, pairs = reader.primary()
            if shape != "object":
                raise Problem(f"resource {name} is no object")
            resources[name] = {"kind": kind, "version": version, "existing": existing, "condition": condition, "body": dict(pairs)}
        else:
            raise Problem(f"not understood: {word}")
    return Resolver(parameters, variables, resources).template(outputs)


class Resolver:
    def __init__(self, parameters, variables, resources):
        self.parameters, self.variables, self.resources = parameters, variables, resources
        self.referred = set()

    def template(self, outputs):
        resources = []
        for name, resource in self.resources.items():
            if not resource["existing"]:
                resources.append(self.resource(name, resource))
        return {
            "parameters": {
                name: parameter | {"default": parameter["default"] and self.resolve(parameter["default"])}
                for name, parameter in self.parameters.items()
            },
            "variables": {name: self.resolve(value) for name, value in self.variables.items()},
            "resources": resources,
            "outputs": {name: output | {"value": self.resolve(output["value"])} for name, output in outputs.items()},
        }

    def names(self, symbol):
        """The names that make up an id, those of the parents first."""
        body = self.resources[symbol]["body"]
        above = self.names(body["parent"][1]) if "parent" in body else []
        return [*above, self.resolve(body["name"])]

    def id(self, symbol):
        return call("resourceId", text(self.resources[symbol]["kind"]), *self.names(symbol))

    def resource(self, symbol, resource):
        self.referred = set()
        body = dict(resource["body"])
        explicit = [needed[1] for needed in body.pop("dependsOn", ("array", []))[1]]
        names = self.names(symbol)
        made = {
            "type": resource["kind"],
            "apiVersion": resource["version"],
            "condition": self.resolve(resource["condition"]),
            "name": names[0] if len(names) == 1 else call("format", text("/".join(f"{{{n}}}" for n in range(len(names)))), *names),
        }
        if "scope" in body:
            made["scope"] = self.id(body["scope"][1])
            self.referred.add(body["scope"][1])
        if "parent" in body:
            self.referred.add(body["parent"][1])
        for key in body.keys() - {"name", "scope", "parent"}:
            made[key] = self.resolve(body[key])
        needed = sorted({*self.referred, *explicit})
        made["dependsOn"] = [self.id(needed) for needed in needed if not self.resources[needed]["existing"]]
        return made

    def resolve(self, expression):
        match expression:
            case ("symbol", name) if name in self.parameters:
                return call("parameters", text(name))
            case ("symbol", name) if name in self.variables:
                return call("variables", text(name))
            case ("symbol", name):
                raise Problem(f"there is no {name}")
            case ("member", ("symbol", name), ("value", key)) if name in self.resources and name not in self.parameters:
                self.referred.add(name)
                match key:
                    case "id":
                        return self.id(name)
                    case "properties":
                        return call("reference", self.id(name), text(self.resources[name]["version"]))
                raise Problem(f"{name}.{key} is not understood")
            case ("member", base, key):
                return ("member", self.resolve(base), self.resolve(key))
            case ("call", name, arguments):
                return call(name, *(self.resolve(argument) for argument in arguments))
            case ("array", items):
                return ("array", [self.resolve(item) for item in items])
            case ("object", pairs):
                return ("object", [(key, self.resolve(value)) for key, value in pairs])
        return expression
