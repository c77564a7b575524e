//! Looking into JSON without parsing it: the members of an object, the elements of an array, everything else skipped.
//!
//! Skipping looks for quotes and brackets only, in one loop without recursion, so that hostile nesting costs no stack. It does not
//! judge what it skips: the worker does. Text that cannot be followed ends the iteration with `None`.

use memchr::{memchr2, memchr3};

/// A value as it stands in the text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Without its quotes, with its escapes.
    String(&'a [u8]),
    /// With its brackets.
    Array(&'a [u8]),
    /// With its braces.
    Object(&'a [u8]),
    /// A number or a literal.
    Other(&'a [u8]),
}

/// The members of the object that `text` is: name as it stands, and value. An item that is `None` says that the text is no JSON object,
/// and is the last.
pub fn members(text: &[u8]) -> impl Iterator<Item = Option<(&[u8], Value<'_>)>> {
    Items::new(text, b'{', b'}', |scanner| {
        let Value::String(name) = scanner.value()? else { return None };
        scanner.expect(b':')?;
        Some((name, scanner.value()?))
    })
}

/// The elements of the array that `text` is; `None` as with `members`.
pub fn elements(text: &[u8]) -> impl Iterator<Item = Option<Value<'_>>> {
    Items::new(text, b'[', b']', |scanner| scanner.value())
}

/// What stands between the brackets of an array, without spaces at the ends.
pub fn inside(array: &[u8]) -> &[u8] {
    array[1..array.len() - 1].trim_ascii()
}

/// Walks along items with commas between them.
struct Items<'a, F> {
    scanner: Scanner<'a>,
    close: u8,
    item: F,
    state: State,
}

#[derive(PartialEq)]
enum State {
    First,
    Later,
    Over,
}

impl<'a, T, F: FnMut(&mut Scanner<'a>) -> Option<T>> Items<'a, F> {
    fn new(text: &'a [u8], open: u8, close: u8, item: F) -> Self {
        let mut scanner = Scanner { rest: text };
        let state = if scanner.expect(open).is_some() { State::First } else { State::Over };
        Self { scanner, close, item, state }
    }
}

impl<'a, T, F: FnMut(&mut Scanner<'a>) -> Option<T>> Iterator for Items<'a, F> {
    type Item = Option<T>;

    fn next(&mut self) -> Option<Option<T>> {
        if self.state == State::Over {
            return None;
        }
        if self.scanner.expect(self.close).is_some() {
            self.state = State::Over;
            return None;
        }
        let separated = self.state == State::First || self.scanner.expect(b',').is_some();
        let item = if separated { (self.item)(&mut self.scanner) } else { None };
        self.state = if item.is_some() { State::Later } else { State::Over };
        Some(item)
    }
}

struct Scanner<'a> {
    rest: &'a [u8],
}

impl<'a> Scanner<'a> {
    /// Takes `byte`, and the spaces before it, if it comes next.
    fn expect(&mut self, byte: u8) -> Option<()> {
        self.rest = self.rest.trim_ascii_start();
        self.rest = self.rest.strip_prefix(&[byte])?;
        Some(())
    }

    fn value(&mut self) -> Option<Value<'a>> {
        self.rest = self.rest.trim_ascii_start();
        let text = self.rest;
        let (value, length) = match *text.first()? {
            b'"' => {
                let length = string_length(text)?;
                (Value::String(&text[1..length - 1]), length)
            }
            b'[' => {
                let length = container_length(text, b'[', b']')?;
                (Value::Array(&text[..length]), length)
            }
            b'{' => {
                let length = container_length(text, b'{', b'}')?;
                (Value::Object(&text[..length]), length)
            }
            _ => {
                let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n');
                let length = text.iter().position(ends).filter(|length| *length > 0)?;
                (Value::Other(&text[..length]), length)
            }
        };
        self.rest = &text[length..];
        Some(value)
    }
}

/// Bytes of the string that `text` begins with, quotes included.
fn string_length(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        at += memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// Bytes of the array or object that `text` begins with. Brackets of the other kind need no counting.
fn container_length(text: &[u8], open: u8, close: u8) -> Option<usize> {
    let mut at = 0;
    let mut depth = 0_usize;
    loop {
        at += memchr3(b'"', open, close, text.get(at..)?)?;
        if text[at] == b'"' {
            at += string_length(&text[at..])?;
            continue;
        }
        at += 1;
        if text[at - 1] == open {
            depth += 1;
        } else {
            depth -= 1;
            if depth == 0 {
                return Some(at);
            }
        }
    }
}
