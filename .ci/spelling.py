#!/usr/bin/env python3
"""Checks the spelling of the documents with hunspell's dictionaries (English as written in America or Britain) and the words of .ci/words.txt.

Code is not prose: blocks, spans, addresses and links' targets are passed over, and so are words in capitals alone. A word of the list that no document uses
any more is refused too, so that the list stays what it is: names, and words of the trade. `--list` prints the words that are not known, one a line.
Before the documents the check judges a sample of its own, good and spoiled.
"""

import pathlib
import re
import subprocess
import sys

DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**/*.md", "deploy/**/*.md", "dashboards/**/*.md", "examples/**/*.md"]
WORDS = pathlib.Path(__file__).with_name("words.txt")

FENCE = re.compile(r"^ {0,3}(```+|~~~+)")
NO_PROSE = [
    re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)"),
    re.compile(r"\]\([^)]*\)"),
    re.compile(r"^ {0,3}\[[^\]]+\]:\s*\S+"),
    re.compile(r"<[^>]+>"),
    re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s<>\"')\]|]+"),
    # Names of files and hosts, versions, and what has digits or underscores in it.
    re.compile(r"[\w/-]+(?:[./][\w-]+)*\.[a-z]{2,5}\b(?![.\w])"),
    re.compile(r"\b\w*[\d_]\w*\b"),
]
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def words(text):
    """Every word of prose with the number of its line."""
    text = COMMENT.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    fence = None
    for number, line in enumerate(text.split("\n"), 1):
        mark = FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = None
            continue
        if mark:
            fence = mark[1]
            continue
        for pattern in NO_PROSE:
            line = pattern.sub(" ", line)
        for found in WORD.finditer(line):
            word = found[0].replace("’", "'")
            # One letter says nothing; capitals are an abbreviation, with its plural's s as well; three words in one are an identifier.
            if len(word) > 1 and not re.fullmatch(r"[^a-z]+('?s)?|(?:[A-Z][a-z]+){3,}", word):
                yield number, word


def unknown_to_dictionaries(asked):
    command = ["hunspell", "-d", "en_US,en_GB", "-i", "utf-8", "-l"]
    try:
        answer = subprocess.run(command, input="\n".join(sorted(asked)) + "\n", capture_output=True, text=True, check=True)
    except FileNotFoundError:
        sys.exit("hunspell is missing: run `make tools`")
    if answer.stderr.strip():
        sys.exit(f"hunspell: {answer.stderr.strip()}")
    return set(answer.stdout.split("\n")) & asked


def is_listed(word, listed):
    bare = re.sub(r"'s$", "", word)
    return any(form in listed for form in (word, bare, word.lower(), bare.lower()))


def check(texts, listed):
    """What is wrong, as place and word, and the words of the list that were needed."""
    found = [(name, number, word) for name, text in texts.items() for number, word in words(text)]
    unknown = unknown_to_dictionaries({word for _, _, word in found})
    faults = [(f"{name}:{number}", word) for name, number, word in found if word in unknown and not is_listed(word, listed)]
    forms = {form for word in unknown for bare in [re.sub(r"'s$", "", word)] for form in (word, bare, word.lower(), bare.lower())}
    return len(found), faults, listed & forms


GOOD = """The daemon's colour, or color: `teh` [kept](teh.md) https://example.com/teh teh.toml x86_64 URLs JSON frobnication AbcTehDef <b>.

```sh
teh
```
"""
# What is added to it, and the words that must be found there.
SPOILED = {"Write teh word.": ["teh"], "It recieves Frobnicatoin’s events.": ["recieves", "Frobnicatoin's"], "See [teh](page.md)": ["teh"], "- *teh*": ["teh"]}


def judge_itself():
    for spoiled, wrong in [("", []), *SPOILED.items()]:
        _, faults, used = check({"sample": f"{GOOD}\n{spoiled}\n"}, {"frobnication", "unused"})
        if faults != [(f"sample:{GOOD.count(chr(10)) + 2}", word) for word in wrong] or used != {"frobnication"}:
            sys.exit(f"this check has gone blind: of `{spoiled}` it says {faults}, and that it used {used}")


def main():
    judge_itself()
    root = pathlib.Path(__file__).parent.parent
    documents = sorted({path for pattern in DOCUMENTS for path in root.glob(pattern) if path.is_file()})
    lines = [line for line in WORDS.read_text(encoding="utf-8").split("\n") if line and not line.startswith("#")] if WORDS.exists() else []
    listed = set(lines)
    texts = {str(path.relative_to(root)): path.read_text(encoding="utf-8") for path in documents}
    count, faults, used = check(texts, listed)
    if sys.argv[1:] == ["--list"]:
        print("\n".join(sorted({word for _, word in faults}, key=lambda word: (word.lower(), word))))
        return
    said = [f"{place}: `{word}` is not known: correct it, or, if it is right, add it to .ci/words.txt" for place, word in faults]
    said += [f".ci/words.txt: no document needs `{word}` any more: take it out" for word in sorted(listed - used)]
    if lines != sorted(set(lines), key=lambda word: (word.lower(), word)):
        said.append(".ci/words.txt: keep it in order, each word once (sorted without regard to capitals)")
    print("\n".join(said), file=sys.stderr, end="\n" if said else "")
    print(f"{count} words in {len(documents)} documents, {len(said)} wrong")
    sys.exit(1 if said or not count else 0)


main()
