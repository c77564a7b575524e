"""Grammars in GBNF, each with a parser that is not ours, or a few lines that know the language."""

from __future__ import annotations

import ast
import configparser
import csv
import datetime
import ipaddress
import json
import math
import re
import shlex
import sqlite3
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from fractions import Fraction
from html.parser import HTMLParser
from typing import NamedTuple
from urllib.parse import urlsplit


class Grammar(NamedTuple):
    """`check` raises, or returns False or None, if a text is not of the language."""

    text: str
    check: Callable[[str], object]


# What calculators read, and what comes out is no division by zero.
ARITHMETIC = r"""
root   ::= term ([-+*] term)*
term   ::= number | "(" root ")"
number ::= "0" | [1-9] [0-9]{0,3}
"""

JSON = r"""
root   ::= object
value  ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" (pair ("," pair)*)? "}"
pair   ::= string ":" value
array  ::= "[" (value ("," value)*)? "]"
string ::= "\"" ([^"\\\x00-\x1f] | "\\" ["\\/bfnrt])* "\""
number ::= "-"? ("0" | [1-9] [0-9]{0,5}) ("." [0-9]{1,4})? ([eE] [-+]? [0-9])?
"""

SQL = r"""
root      ::= "SELECT " columns " FROM items" (" WHERE " condition)? (" ORDER BY " column)? ";"
columns   ::= "*" | column (", " column)*
column    ::= "name" | "price" | "stock"
condition ::= test ((" AND " | " OR ") test)?
test      ::= column " " ("=" | "<" | ">=" | "<>") " " value | "NOT (" condition ")"
value     ::= [0-9]{1,4} | "'" [a-z ]* "'"
"""

# A game's first moves, without a look at the board.
CHESS = r"""
root  ::= "1. " move " " move "\n" ([2-9] ". " move " " move "\n"){0,3}
move  ::= (pawn | piece | castle) [+#]?
piece ::= [NBRQK] [a-h]? "x"? square
pawn  ::= ([a-h] "x")? square ("=" [NBRQ])?
castle ::= "O-O" | "O-O-O"
square ::= [a-h] [1-8]
"""

LIST = r"""
root ::= item{1,4}
item ::= "- " [^\n]{1,12} "\n"
"""

XML = r"""
root    ::= element
element ::= "<a>" content "</a>" | "<b x=\"" [0-9]+ "\">" content "</b>" | "<c/>"
content ::= (element | [a-z ]){0,4}
"""

HTML = r"""
root ::= "<ul>" ("<li>" text "</li>")+ "</ul>"
text ::= ([a-zé] | "<em>" text "</em>")*
"""

BRACKETS = 'root ::= "" | "(" root ")" root | "[" root "]" root'

PALINDROMES = 'root ::= "a" root? "a" | "b" root? "b" | "c"'

LISP = r"""
root ::= "(" symbol (" " value)* ")"
value ::= symbol | [0-9]+ | root
symbol ::= [a-z] [a-z0-9-]{0,5}
"""

PYTHON = r"""
root       ::= "def " name "(" (name ("," name)?)? "):\n" ("    " statement "\n")+
statement  ::= name " = " expression | "return " expression | "pass"
expression ::= atom (" " ("+" | "and" | "in" | "==") " " atom){0,2}
atom       ::= name | [1-9] [0-9]? | "[" (expression ("," expression)*)? "]" | "'" [a-z]* "'"
name       ::= [xyz] [0-9]?
"""

CALLS = r"""
root  ::= "[" call (", " call){0,2} "]"
call  ::= ("search" | "weather") "(" (argument (", " argument)?)? ")"
argument ::= ("query=" string) | ("count=" [1-9])
string ::= "\"" [a-z ]{0,8} "\""
"""

CSV = r"""
root ::= "name,count\n" (row "\n")+
row  ::= (plain | quoted) "," [0-9]+
plain ::= [a-z]+
quoted ::= "\"" ([^"\r\n\x00] | "\"\"")* "\""
"""

INI = r"""
root    ::= section+
section ::= "[" [A-Z] [0-9]{6,9} "]\n" key
key     ::= "size = " [0-9]+ "\n" | "name = " [a-z]+ "\n" | ""
"""

TOML = r"""
root  ::= "title = " string "\n" "day = " date "\n" "sizes = " array "\n"
string ::= "\"" [^"\\\x00-\x1f\x7f]* "\""
date  ::= "20" [0-9] [0-9] "-0" [1-9] "-" ("0" [1-9] | "1" [0-9] | "2" [0-8])
array ::= "[" (number (", " number)*)? "]"
number ::= "0" | "-"? [1-9] [0-9]{0,8}
"""

URL = r"""
# A comment, and a rule that ends on the next line.
root ::= "http" "s"? "://" host (":" port)?
         path ("?" query)?
host ::= label ("." label)+
label ::= [a-z0-9]{1,8}
port ::= "80" | "8080"
path ::= ("/" [a-zA-Z0-9_~.-]*)*
query ::= [a-z] "=" [0-9]+ ("&" [a-z] "=" [0-9]+)*
"""

ADDRESS = r"""
root ::= v4 | v6
v4   ::= byte "." byte "." byte "." byte
byte ::= "25" [0-5] | "2" [0-4] [0-9] | "1" [0-9] [0-9] | [1-9]? [0-9]
v6   ::= (group ":"){7} group
group ::= [0-9a-f]{1,4}
"""

DATE = r"""
root ::= [12] [0-9]{3} "-" (month31 "-" day31 | month30 "-" day30 | "02-" day28)
month31 ::= "0" [13578] | "10" | "12"
month30 ::= "04" | "06" | "09" | "11"
day31 ::= day30 | "31"
day30 ::= day28 | "29" | "30"
day28 ::= "0" [1-9] | "1" [0-9] | "2" [0-8]
"""

SHELL = r"""
root ::= command (" | " command){0,2}
command ::= ("ls" | "grep" | "wc") (" " argument){0,3}
argument ::= "-" [a-z] | "'" [^'\x00\n|]{0,8} "'" | [a-z]+ | "\"" [a-z ]{0,8} "\""
"""

UNICODE = r"""
root ::= greeting ("、" greeting){0,2} "。"
greeting ::= "你好" | "здравствуй" | "γειά" | [\u00e0-\u00ff]+ | "👋" "🏽"?
"""

THINKING = r"""
root ::= "<think>" [^<]* "</think>" answer
answer ::= "yes" | "no" | "perhaps " [1-9] "0%"
"""

FRACTIONS = r"""
root ::= "-"? [0-9]{1,6} "/" [1-9] [0-9]{0,6}
"""


def _is_arithmetic(text: str) -> bool:
    tree = ast.parse(text, mode="eval")
    allowed = (ast.Expression, ast.BinOp, ast.Constant, ast.operator)
    return all(isinstance(node, allowed) for node in ast.walk(tree))


def _is_sql(text: str) -> bool:
    with sqlite3.connect(":memory:") as database:
        database.execute("CREATE TABLE items (name TEXT, price INTEGER, stock INTEGER)")
        database.execute(text)
    return True


def _is_chess(text: str) -> bool:
    numbers, moves = [], []
    for line in text.splitlines():
        number, *both = line.split(" ")
        numbers.append(number)
        moves += both
    end = r"[a-h][1-8](=[NBRQ])?[+#]?"
    known = rf"(([NBRQK][a-h]?x?)[a-h][1-8][+#]?|([a-h]x)?{end}|O-O(-O)?[+#]?)"
    return numbers[0] == "1." and all(re.fullmatch(known, move) for move in moves)


class _Balanced(HTMLParser):
    """Raises if a tag is closed that was not the last one opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _is_html(text: str) -> bool:
    parser = _Balanced()
    parser.feed(text)
    parser.close()
    return not parser.open


def _is_balanced(text: str) -> bool:
    while (shorter := text.replace("()", "").replace("[]", "")) != text:
        text = shorter
    return not text


def _is_palindrome(text: str) -> bool:
    return text == text[::-1] and set(text) <= set("abc") and text.count("c") <= 1


def _is_lisp(text: str) -> bool:
    tokens = text.replace("(", " ( ").replace(")", " ) ").split()

    def after(place: int) -> int:
        """Behind the value at `place`."""
        if tokens[place] != "(":
            assert re.fullmatch(r"[0-9]+|[a-z][a-z0-9-]{0,5}", tokens[place])
            return place + 1
        assert tokens[place + 1].isascii()
        assert tokens[place + 1][0].isalpha()
        place += 2
        while tokens[place] != ")":
            place = after(place)
        return place + 1

    return after(0) == len(tokens)


def _is_calls(text: str) -> bool:
    calls = ast.parse(text, mode="eval").body
    assert isinstance(calls, ast.List)
    return all(
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id in ("search", "weather")
        and all(
            type(ast.literal_eval(each.value)) is {"query": str, "count": int}[each.arg or ""]
            for each in call.keywords
        )
        for call in calls.elts
    )


def _is_csv(text: str) -> bool:
    header, *rows = csv.reader(text.splitlines(keepends=True), strict=True)
    return header == ["name", "count"] and all(len(r) == 2 and r[1].isdecimal() for r in rows)


def _is_ini(text: str) -> bool:
    parser = configparser.ConfigParser(strict=False)
    parser.read_string(text)
    return bool(parser.sections())


def _is_toml(text: str) -> bool:
    values = tomllib.loads(text)
    return isinstance(values["day"], datetime.date) and all(type(n) is int for n in values["sizes"])


def _is_url(text: str) -> bool:
    parts = urlsplit(text)
    return parts.scheme in ("http", "https") and parts.port in (None, 80, 8080)


def _is_shell(text: str) -> bool:
    commands = [shlex.split(command) for command in text.split(" | ")]
    return all(c[0] in ("ls", "grep", "wc") and len(c) <= 4 for c in commands)


def _is_unicode(text: str) -> bool:
    greeting = "(你好|здравствуй|γειά|[à-ÿ]+|👋🏽?)"
    return re.fullmatch(f"{greeting}(、{greeting}){{0,2}}。", text) is not None


def _has_thought(text: str) -> bool:
    _, thought, answer = re.split("</?think>", text)
    return "<" not in thought and answer in ("yes", "no", *(f"perhaps {i}0%" for i in range(1, 10)))


GRAMMARS = {
    "arithmetic": Grammar(ARITHMETIC, _is_arithmetic),
    "JSON": Grammar(JSON, lambda text: isinstance(json.loads(text), dict)),
    "SQL": Grammar(SQL, _is_sql),
    "chess": Grammar(CHESS, _is_chess),
    "list": Grammar(LIST, lambda text: re.fullmatch(r"(- [^\n]{1,12}\n){1,4}", text)),
    "XML": Grammar(XML, lambda text: ElementTree.fromstring(text) is not None),
    "HTML": Grammar(HTML, _is_html),
    "brackets": Grammar(BRACKETS, _is_balanced),
    "palindromes": Grammar(PALINDROMES, _is_palindrome),
    "Lisp": Grammar(LISP, _is_lisp),
    "Python": Grammar(PYTHON, lambda text: len(ast.parse(text).body) == 1),
    "calls": Grammar(CALLS, _is_calls),
    "CSV": Grammar(CSV, _is_csv),
    "INI": Grammar(INI, _is_ini),
    "TOML": Grammar(TOML, _is_toml),
    "URL": Grammar(URL, _is_url),
    "address": Grammar(ADDRESS, lambda text: ipaddress.ip_address(text)),
    "date": Grammar(DATE, lambda text: datetime.date.fromisoformat(text)),
    "shell": Grammar(SHELL, _is_shell),
    "unicode": Grammar(UNICODE, _is_unicode),
    "thinking": Grammar(THINKING, _has_thought),
    "fractions": Grammar(FRACTIONS, lambda text: math.isfinite(Fraction(text))),
}
