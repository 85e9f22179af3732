#!/usr/bin/env python3
"""Checks every link of the documents, without asking the network: a file that is linked to exists, so does the heading behind `#`, and an address
elsewhere is https and well formed.

Headings are named as GitHub names them. Code is no link, neither blocks nor spans. Before the documents the check judges a sample of its own, good and
spoiled: a check that finds nothing in the spoiled one has gone blind, and says so.
"""

import pathlib
import re
import sys
import tempfile
import urllib.parse

DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**/*.md", "deploy/**/*.md", "dashboards/**/*.md", "examples/**/*.md"]

FENCE = re.compile(r"^ {0,3}(```+|~~~+)")
HEADING = re.compile(r"^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$")
CODE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
# [text](target "title"): one level of brackets inside the text, as in [![image](a)](b); the target may stand in <>.
INLINE = re.compile(r"!?\[(?:[^\[\]]|\[[^\[\]]*\](?:\([^()]*\))?)*\]\(\s*(<[^>]*>|[^\s()]*(?:\([^\s()]*\)[^\s()]*)*)(?:\s+(?:\"[^\"]*\"|'[^']*'))?\s*\)")
IMAGE_INSIDE = re.compile(r"!\[[^\[\]]*\]\(\s*([^\s()]+)")
DEFINITION = re.compile(r"^ {0,3}\[[^\]]+\]:\s*(\S+)")
REFERENCE = re.compile(r"\[([^\[\]]+)\]\[([^\[\]]*)\]")
NAMED = re.compile(r"^ {0,3}\[([^\]]+)\]:\s*\S+")
HTML = re.compile(r"<(?:a|img|source)\b[^>]*?\b(?:href|src)\s*=\s*[\"']([^\"']*)[\"']", re.IGNORECASE)
BARE = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s<>\"')\]|]+")
ANCHOR = re.compile(r"<[a-z]+\b[^>]*?\b(?:id|name)\s*=\s*[\"']([^\"']+)[\"']", re.IGNORECASE)
HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}(?::[0-9]+)?", re.IGNORECASE)


def lines_outside_code(text):
    """Each line with its number; blocks of code and comments are empty lines."""
    text = COMMENT.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    fence = None
    for number, line in enumerate(text.split("\n"), 1):
        mark = FENCE.match(line)
        if fence:
            if mark and mark[1][0] == fence[0] and len(mark[1]) >= len(fence) and not line.strip().strip(fence[0]):
                fence = None
            line = ""
        elif mark:
            fence = mark[1]
            line = ""
        yield number, line


def slug(heading):
    """The name that GitHub gives to a heading."""
    heading = CODE.sub(lambda found: found[2].strip(), heading)
    heading = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    heading = re.sub(r"<[^>]*>", "", heading)
    heading = re.sub(r"(\*\*|__)(.+?)\1", r"\2", heading)
    heading = re.sub(r"\*(.+?)\*", r"\1", heading)
    kept = (letter for letter in heading.strip().lower() if letter.isalnum() or letter in "_- ")
    return "".join(kept).replace(" ", "-")


def anchors(text):
    names, seen = set(), {}
    for _, line in lines_outside_code(text):
        names.update(ANCHOR.findall(CODE.sub("", line)))
        heading = HEADING.match(line)
        if heading:
            name = slug(heading[2])
            count = seen.get(name, 0)
            seen[name] = count + 1
            names.add(f"{name}-{count}" if count else name)
    return names


def targets(text):
    """Every link with the number of its line."""
    defined = {found[1].lower() for _, line in lines_outside_code(text) if (found := NAMED.match(line))}
    for number, line in lines_outside_code(text):
        line = CODE.sub(lambda found: "`" * len(found[1]) + " " * len(found[2]) + "`" * len(found[1]), line)
        rest = line
        for pattern in (INLINE, DEFINITION, HTML):
            for found in pattern.finditer(line):
                yield number, found[1].strip("<>")
                rest = rest.replace(found[0], " ")
                if pattern is INLINE:
                    yield from ((number, inner[1]) for inner in IMAGE_INSIDE.finditer(found[0][1:]))
        for found in REFERENCE.finditer(rest):
            if (found[2] or found[1]).lower() not in defined:
                yield number, f"[{found[2] or found[1]}]"
        yield from ((number, found[0].rstrip(".,;:")) for found in BARE.finditer(rest))


def fault_of_address(target):
    try:
        parts = urllib.parse.urlsplit(target)
    except ValueError as error:
        return f"is not well formed ({error})"
    if parts.scheme != "https":
        return "is not https"
    if not HOST.fullmatch(parts.netloc):
        return "names no host that could be asked"
    if re.search(r"[\s\\^`{}]|%(?![0-9A-Fa-f]{2})", target):
        return "has characters that an address cannot have"
    return None


def check(root):
    """What is wrong, as file, line and words."""
    root = root.resolve()
    documents = sorted({path for pattern in DOCUMENTS for path in root.glob(pattern) if path.is_file()})
    texts, faults = {}, []

    def text_of(path):
        if path not in texts:
            texts[path] = path.read_text(encoding="utf-8")
        return texts[path]

    count = 0
    for document in documents:
        for number, target in targets(text_of(document)):
            count += 1
            place = f"{document.relative_to(root)}:{number}"
            if target.startswith("["):
                faults.append(f"{place}: {target} is not defined anywhere on this page")
                continue
            if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:", target) or target.startswith("//"):
                if not target.startswith("mailto:") and (fault := fault_of_address(target)):
                    faults.append(f"{place}: {target} {fault}")
                continue
            path, _, anchor = target.partition("#")
            if not path and not anchor:
                faults.append(f"{place}: a link to nothing")
                continue
            linked = (document.parent / urllib.parse.unquote(path)).resolve() if path else document
            if path.startswith("/") or not linked.is_relative_to(root):
                faults.append(f"{place}: {target} leads out of the repository")
            elif not linked.exists():
                faults.append(f"{place}: {target}: there is no {linked.relative_to(root)}")
            elif anchor and linked.suffix == ".md" and anchor not in anchors(text_of(linked)):
                faults.append(f"{place}: {target}: no heading of {linked.relative_to(root)} is called #{anchor}")
    return documents, count, faults


GOOD = """# A `code` heading, twice
## Twice
## Twice
See [this](docs/page.md#a-b--c_d), [that](#twice-1), [both](#a-code-heading-twice), <a href="docs/page.md">it</a>, [a picture ![x](docs/x.png)](docs/page.md "title"),
`[no](link.md)`, [elsewhere](https://example.com/a_(b)?c=d#e), https://example.com/bare. [By name][name]

```sh
[no](link.md)
```

[name]: docs/page.md
"""
# What is written, and a part of what must be said of it.
SPOILED = {
    "[gone](docs/gone.md)": "there is no docs/gone.md",
    "[gone](#nowhere)": "is called #nowhere",
    "[gone](docs/page.md#Twice)": "is called #Twice",
    "![gone](docs/gone.png)": "there is no docs/gone.png",
    "[![gone](docs/gone.png)](docs/page.md)": "there is no docs/gone.png",
    "[out](../out.md)": "leads out",
    "[plain](http://example.com/)": "is not https",
    "see http://example.com/ there": "is not https",
    "[host](https://example/)": "names no host",
    "[odd](https://example.com/%zz)": "characters that an address cannot have",
    "[by name][gone]": "[gone] is not defined",
    "[name]: docs/gone.md": "there is no docs/gone.md",
    '<img src="docs/gone.png">': "there is no docs/gone.png",
    "[](<>)": "a link to nothing",
}


def judge_itself():
    for spoiled, said in [("", None), *SPOILED.items()]:
        with tempfile.TemporaryDirectory() as directory:
            root = pathlib.Path(directory)
            (root / "docs").mkdir()
            (root / "docs/page.md").write_text("# A, b – c_d\n")
            (root / "docs/x.png").touch()
            (root / "README.md").write_text(f"{GOOD}\n{spoiled}\n")
            _, _, faults = check(root)
            right = len(faults) == 1 and said in faults[0] and faults[0].startswith(f"README.md:{GOOD.count(chr(10)) + 2}:") if said else not faults
            if not right:
                sys.exit(f"this check has gone blind: of `{spoiled}` it says {faults}")


def main():
    judge_itself()
    documents, count, faults = check(pathlib.Path(__file__).parent.parent)
    print("\n".join(faults), file=sys.stderr, end="\n" if faults else "")
    print(f"{count} links in {len(documents)} documents, {len(faults)} wrong")
    sys.exit(1 if faults or not count else 0)


main()
