//! Looking into JSON without parsing it: a cursor that steps over members, elements and values.
//!
//! Skipping looks for quotes and brackets only, in one loop without recursion, so that hostile nesting costs no stack. It does not
//! judge what it skips: the worker does. Text that cannot be followed ends every walk with `None`.

use memchr::{memchr, memchr3};

/// A place in JSON text. Every method takes what comes next, spaces before it included, or returns `None` if that is something else.
pub struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    pub fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// The byte that comes next after spaces; it is not taken.
    pub fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.text.get(self.at)?;
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    /// Where the next value begins, for `since`.
    pub fn mark(&mut self) -> Option<usize> {
        self.peek()?;
        Some(self.at)
    }

    /// The text from `mark` to here.
    pub fn since(&self, mark: usize) -> &'a [u8] {
        &self.text[mark..self.at]
    }

    /// Takes an object; `member` is given each name, as it stands without its quotes, and takes the value.
    pub fn object(&mut self, mut member: impl FnMut(&mut Self, &'a [u8]) -> Option<()>) -> Option<()> {
        self.items(b'{', b'}', |scanner| {
            let name = scanner.string()?;
            scanner.expect(b':')?;
            member(scanner, name)
        })
    }

    /// Takes an array; `element` takes each element.
    pub fn array(&mut self, element: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.items(b'[', b']', element)
    }

    /// Takes a string: what stands between its quotes, escapes included.
    pub fn string(&mut self) -> Option<&'a [u8]> {
        self.expect(b'"')?;
        let begin = self.at;
        self.at = string_end(self.text, begin)? + 1;
        Some(&self.text[begin..self.at - 1])
    }

    /// Takes any value: its text, with quotes or brackets.
    pub fn value(&mut self) -> Option<&'a [u8]> {
        let begin = self.mark()?;
        self.at = match self.text[begin] {
            b'"' => string_end(self.text, begin + 1)? + 1,
            b'[' => container_end(self.text, begin, b'[', b']')?,
            b'{' => container_end(self.text, begin, b'{', b'}')?,
            _ => scalar_end(self.text, begin)?,
        };
        Some(&self.text[begin..self.at])
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// Brackets, and items with commas between them.
    fn items(&mut self, open: u8, close: u8, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.expect(open)?;
        if self.peek()? == close {
            self.at += 1;
            return Some(());
        }
        loop {
            item(self)?;
            let after = self.peek()?;
            self.at += 1;
            if after == close {
                return Some(());
            }
            if after != b',' {
                return None;
            }
        }
    }
}

/// Where the quote is that ends the string whose text begins at `begin`: the first one with an even number of backslashes before it.
/// Looking for quotes alone passes over `\n` and the like at full speed.
fn string_end(text: &[u8], begin: usize) -> Option<usize> {
    let mut at = begin;
    loop {
        at = find([b'"'], text, at, |text| memchr(b'"', text))?;
        let backslashes = text[begin..at].iter().rev().take_while(|byte| **byte == b'\\').count();
        if backslashes % 2 == 0 {
            return Some(at);
        }
        at += 1;
    }
}

/// Behind the array or object that begins at `at`. Brackets of the other kind need no counting.
fn container_end(text: &[u8], mut at: usize, open: u8, close: u8) -> Option<usize> {
    let mut depth = 0_usize;
    loop {
        at = find([b'"', open, close], text, at, |text| memchr3(b'"', open, close, text))?;
        if text[at] == b'"' {
            at = string_end(text, at + 1)? + 1;
            continue;
        }
        depth = if text[at] == open { depth + 1 } else { depth - 1 };
        at += 1;
        if depth == 0 {
            return Some(at);
        }
    }
}

/// Behind the number or literal that begins at `begin`.
fn scalar_end(text: &[u8], begin: usize) -> Option<usize> {
    let ends =
        |byte: &u8| matches!(byte, b',' | b':' | b'"' | b'[' | b'{' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n');
    let length = text[begin..].iter().position(ends)?;
    (length > 0).then_some(begin + length)
}

/// Where one of `needles` comes next. Dense JSON has one every few bytes: the first sixteen are looked at here, and only then
/// `search`, which is faster over long distances and slower to begin, takes over.
fn find<const N: usize>(
    needles: [u8; N],
    text: &[u8],
    mut at: usize,
    search: impl Fn(&[u8]) -> Option<usize>,
) -> Option<usize> {
    const ONES: u64 = u64::MAX / 0xff;
    const HIGHS: u64 = ONES << 7;
    for _ in 0..2 {
        let Some(word) = text.get(at..).and_then(|rest| rest.first_chunk()) else { break };
        let word = u64::from_le_bytes(*word);
        // The high bit of every byte that is a needle, and perhaps of bytes above one: the lowest bit is right.
        let found = needles.iter().fold(0, |found, needle| {
            let differing = word ^ (ONES * u64::from(*needle));
            found | (differing.wrapping_sub(ONES) & !differing & HIGHS)
        });
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    Some(at + search(text.get(at..)?)?)
}
