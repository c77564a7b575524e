//! The routing key of a body, found without parsing the rest of it.
//!
//! The key is the text that a worker's prefix cache will see, in the order in which it will: two requests share a prefix of their keys
//! about where they share a prefix of their prompts. Strings are taken as they stand in the JSON, escapes included, and most keys are one
//! borrowed slice of the body.

mod json;

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hasher};

use self::json::{Value, elements, members};

/// Between a message's role and its content, and after a message: bytes that JSON text cannot contain.
const AFTER_ROLE: u8 = 0x1f;
const AFTER_MESSAGE: u8 = 0x1e;

/// The key of a request body; empty if there is no prompt in it, or if it is not JSON.
pub fn routing_key(body: &[u8]) -> Cow<'_, [u8]> {
    let mut fields = Fields::default();
    for member in members(body) {
        let Some((name, value)) = member else { return Cow::default() };
        match name {
            b"text" => fields.text = Some(value),
            b"prompt" => fields.prompt = Some(value),
            b"input_ids" => fields.input_ids = Some(value),
            b"input" => fields.input = Some(value),
            b"messages" => fields.messages = Some(value),
            b"tools" => fields.tools = Some(value),
            _ => {}
        }
    }
    if let Some(Value::Array(messages)) = fields.messages {
        return Cow::Owned(conversation(messages, fields.tools));
    }
    let prompts = [fields.text, fields.prompt, fields.input_ids, fields.input];
    Cow::Borrowed(prompts.into_iter().flatten().find_map(plain).unwrap_or_default())
}

/// The fields that can hold a prompt.
#[derive(Default)]
struct Fields<'a> {
    text: Option<Value<'a>>,
    prompt: Option<Value<'a>>,
    input_ids: Option<Value<'a>>,
    input: Option<Value<'a>>,
    messages: Option<Value<'a>>,
    tools: Option<Value<'a>>,
}

/// A string without its quotes, or a list (of strings or of token ids) without its brackets.
fn plain(value: Value<'_>) -> Option<&[u8]> {
    match value {
        Value::String(text) => Some(text),
        Value::Array(list) => Some(json::inside(list)),
        Value::Object(_) | Value::Other(_) => None,
    }
}

/// Tools first, as chat templates have them in the system prompt, then the messages.
fn conversation(messages: &[u8], tools: Option<Value<'_>>) -> Vec<u8> {
    let mut key = Vec::with_capacity(messages.len());
    if let Some(Value::Array(tools)) = tools {
        key.extend_from_slice(tools);
        key.push(AFTER_MESSAGE);
    }
    for message in elements(messages) {
        let Some(Value::Object(message)) = message else { continue };
        append_message(&mut key, message);
    }
    key
}

fn append_message(key: &mut Vec<u8>, message: &[u8]) {
    let (mut role, mut content, mut tool_calls) = (None, None, None);
    for (name, value) in members(message).flatten() {
        match name {
            b"role" => role = Some(value),
            b"content" => content = Some(value),
            b"tool_calls" => tool_calls = Some(value),
            _ => {}
        }
    }
    if let Some(Value::String(role)) = role {
        key.extend_from_slice(role);
    }
    key.push(AFTER_ROLE);
    match content {
        Some(Value::String(text)) => key.extend_from_slice(text),
        Some(Value::Array(parts)) => elements(parts).flatten().for_each(|part| append_part(key, part)),
        _ => {}
    }
    if let Some(Value::Array(calls)) = tool_calls {
        key.extend_from_slice(calls);
    }
    key.push(AFTER_MESSAGE);
}

/// The text of a text part; for an image or another part a digest, since its bytes are many and a worker never sees them as text.
fn append_part(key: &mut Vec<u8>, part: Value<'_>) {
    let raw = match part {
        Value::Object(raw) => raw,
        Value::String(text) => return key.extend_from_slice(text),
        Value::Array(_) | Value::Other(_) => return,
    };
    let text = members(raw).flatten().find_map(|member| match member {
        (b"text", Value::String(text)) => Some(text),
        _ => None,
    });
    match text {
        Some(text) => key.extend_from_slice(text),
        None => key.extend_from_slice(&digest(raw).to_le_bytes()),
    }
}

/// Tells large parts apart by their length and both ends.
fn digest(raw: &[u8]) -> u64 {
    const END_BYTES: usize = 2048;
    let mut hasher = DefaultHasher::new();
    hasher.write_usize(raw.len());
    hasher.write(&raw[..raw.len().min(END_BYTES)]);
    hasher.write(&raw[raw.len().saturating_sub(END_BYTES)..]);
    hasher.finish()
}

#[cfg(test)]
mod tests;
