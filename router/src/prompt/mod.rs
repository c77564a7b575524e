//! What the router needs to know of a body, found without parsing the rest of it: above all the routing key.
//!
//! The key is made of the text that a worker's prefix cache will see, in the order in which it will: two requests share a prefix of
//! their keys about where they share a prefix of their prompts. Strings are taken as they stand in the JSON, escapes included.

mod json;

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hasher};

use self::json::Scanner;
use crate::prefix::{Key, KeyBuilder};

/// Between a message's role and its content, and after a message: bytes that JSON text cannot contain.
const AFTER_ROLE: &[u8] = &[0x1f];
const AFTER_MESSAGE: &[u8] = &[0x1e];

/// What was found in a body. Of a body that is not a JSON object: nothing.
#[derive(Debug, Default)]
pub struct Scanned<'a> {
    /// Empty if there is no prompt in the body.
    pub key: Key,
    /// The `model` that is asked for.
    pub model: Option<Cow<'a, str>>,
    /// The string or number in the field that was asked for, as it stands in the JSON, a string without its quotes.
    pub affinity: Option<&'a [u8]>,
    /// The session that the request belongs to, or opens or closes.
    pub session: Option<Cow<'a, str>>,
    /// Whether `stream` is true.
    pub stream: bool,
}

/// Looks through a request body. `affinity_field` names a member of it, such as `user`.
pub fn scan<'a>(body: &'a [u8], affinity_field: Option<&str>) -> Scanned<'a> {
    let Some((fields, scanned)) = members(body, affinity_field.map(str::as_bytes)) else { return Scanned::default() };
    Scanned { key: fields.key(), ..scanned }
}

/// Everything but the key itself; `None` of what is not a JSON object.
fn members<'a>(body: &'a [u8], affinity_field: Option<&[u8]>) -> Option<(Fields<'a>, Scanned<'a>)> {
    let mut fields = Fields::default();
    let mut scanned = Scanned::default();
    Scanner::new(body).object(|scanner, name| {
        let begin = scanner.mark()?;
        let is_conversation = name == b"messages" && scanner.peek()? == b'[';
        if is_conversation {
            fields.messages = Some(conversation(scanner)?);
        } else {
            scanner.value()?;
        }
        let value = scanner.since(begin);
        match name {
            b"text" => fields.prompts[0] = plain(value),
            b"prompt" => fields.prompts[1] = plain(value),
            b"input_ids" => fields.prompts[2] = plain(value),
            b"input" => fields.prompts[3] = plain(value),
            b"tools" => fields.tools = (value[0] == b'[').then_some(value),
            b"messages" if !is_conversation => fields.messages = None,
            b"model" => scanned.model = unescaped(value),
            b"stream" => scanned.stream = value == b"true",
            b"session_id" => scanned.session = unescaped(value),
            b"session_params" => scanned.session = session_of(value),
            _ => {}
        }
        if affinity_field == Some(name) {
            scanned.affinity = string_or_number(value);
        }
        Some(())
    })?;
    Some((fields, scanned))
}

/// The fields that make the key.
#[derive(Default)]
struct Fields<'a> {
    /// `text`, `prompt`, `input_ids`, `input`: the first one that is there counts.
    prompts: [Option<&'a [u8]>; 4],
    messages: Option<Vec<Piece<'a>>>,
    tools: Option<&'a [u8]>,
}

/// A piece of a conversation's key.
enum Piece<'a> {
    Text(&'a [u8]),
    /// Stands for bytes that a worker never sees as text.
    Digest([u8; 8]),
}

// ===== impl Fields =====

impl Fields<'_> {
    fn key(&self) -> Key {
        let mut key = KeyBuilder::with_capacity(self.pieces().map(<[u8]>::len).sum());
        self.pieces().for_each(|piece| key.push(piece));
        key.finish()
    }

    /// The text of the key. Of a conversation: tools first, as chat templates have them in the system prompt, then the messages.
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let prompt = self.prompts.iter().flatten().next().filter(|_| self.messages.is_none());
        let tools = self.tools.filter(|_| self.messages.is_some());
        let tools = tools.into_iter().flat_map(|tools| [tools, AFTER_MESSAGE]);
        prompt.copied().into_iter().chain(tools).chain(self.messages.iter().flatten().map(Piece::bytes))
    }
}

/// A string without its quotes, or a list (of strings or of token ids) without its brackets.
fn plain(value: &[u8]) -> Option<&[u8]> {
    match value[0] {
        b'[' => Some(inside(value).trim_ascii()),
        _ => string(value),
    }
}

/// A string without its quotes.
fn string(value: &[u8]) -> Option<&[u8]> {
    (value[0] == b'"').then(|| inside(value))
}

/// Without the quotes or brackets around it.
fn inside(value: &[u8]) -> &[u8] {
    &value[1..value.len() - 1]
}

fn string_or_number(value: &[u8]) -> Option<&[u8]> {
    match value[0] {
        b'-' | b'0'..=b'9' => Some(value),
        _ => string(value),
    }
}

/// The `id` in `session_params`: an object, or a list with one for each prompt, of which the first counts.
fn session_of(value: &[u8]) -> Option<Cow<'_, str>> {
    let mut scanner = Scanner::new(if value[0] == b'[' { &value[1..] } else { value });
    let mut session = None;
    scanner.object(|scanner, name| {
        let value = scanner.value()?;
        if name == b"id" {
            session = unescaped(value);
        }
        Some(())
    })?;
    session
}

/// A string as its reader sees it; `None` for what is no string, or a broken one.
fn unescaped(value: &[u8]) -> Option<Cow<'_, str>> {
    let text = string(value)?;
    if memchr::memchr(b'\\', text).is_some() {
        return serde_json::from_slice(value).ok().map(Cow::Owned);
    }
    str::from_utf8(text).ok().map(Cow::Borrowed)
}

/// Takes the array of messages.
fn conversation<'a>(scanner: &mut Scanner<'a>) -> Option<Vec<Piece<'a>>> {
    let mut pieces = Vec::new();
    scanner.array(
        |scanner| {
            if scanner.peek()? == b'{' { message(scanner, &mut pieces) } else { scanner.value().map(drop) }
        },
    )?;
    Some(pieces)
}

/// Takes a message: its role, its content and the tools that it calls, in this order.
fn message<'a>(scanner: &mut Scanner<'a>, pieces: &mut Vec<Piece<'a>>) -> Option<()> {
    let (mut role, mut content, mut tool_calls) = (None, None, None);
    scanner.object(|scanner, name| {
        let value = scanner.value()?;
        match name {
            b"role" => role = string(value),
            b"content" => content = Some(value),
            b"tool_calls" => tool_calls = (value[0] == b'[').then_some(value),
            _ => {}
        }
        Some(())
    })?;
    pieces.extend(role.map(Piece::Text));
    pieces.push(Piece::Text(AFTER_ROLE));
    match content {
        Some(list) if list[0] == b'[' => Scanner::new(list).array(|scanner| part(scanner, pieces))?,
        Some(value) => pieces.extend(string(value).map(Piece::Text)),
        None => {}
    }
    pieces.extend(tool_calls.map(Piece::Text));
    pieces.push(Piece::Text(AFTER_MESSAGE));
    Some(())
}

/// Takes a part of a message: the text of a text part; a digest of an image or another part, since its bytes are many and a worker
/// never sees them as text.
fn part<'a>(scanner: &mut Scanner<'a>, pieces: &mut Vec<Piece<'a>>) -> Option<()> {
    let begin = scanner.mark()?;
    if scanner.peek()? != b'{' {
        pieces.extend(string(scanner.value()?).map(Piece::Text));
        return Some(());
    }
    let mut text = None;
    scanner.object(|scanner, name| {
        let value = scanner.value()?;
        if name == b"text" {
            text = string(value);
        }
        Some(())
    })?;
    pieces.push(text.map_or_else(|| Piece::Digest(digest(scanner.since(begin))), Piece::Text));
    Some(())
}

/// Tells large parts apart by their length and both ends.
fn digest(raw: &[u8]) -> [u8; 8] {
    const END_BYTES: usize = 2048;
    let mut hasher = DefaultHasher::new();
    hasher.write_usize(raw.len());
    hasher.write(&raw[..raw.len().min(END_BYTES)]);
    hasher.write(&raw[raw.len().saturating_sub(END_BYTES)..]);
    hasher.finish().to_le_bytes()
}

// ===== impl Piece =====

impl Piece<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text,
            Self::Digest(digest) => digest,
        }
    }
}

#[cfg(test)]
mod tests;
