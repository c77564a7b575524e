//! The text that a worker would compute for a body, however a router wrote the body again.

use serde::Deserialize;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    messages: Vec<Message>,
    prompt: String,
    text: String,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: String,
}

/// Messages in their order, or the prompt; nothing where the body has neither.
pub fn text(body: &[u8]) -> Vec<u8> {
    let body: Body = serde_json::from_slice(body).unwrap_or_default();
    if body.messages.is_empty() {
        return if body.prompt.is_empty() { body.text } else { body.prompt }.into_bytes();
    }
    let mut text = Vec::new();
    for message in &body.messages {
        append_message(&mut text, &message.role, &message.content);
    }
    text
}

pub fn append_message(text: &mut Vec<u8>, role: &str, content: &str) {
    text.extend_from_slice(role.as_bytes());
    text.push(b'\n');
    text.extend_from_slice(content.as_bytes());
    text.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_turn_begins_the_next() {
        let first = br#"{"model": "m", "messages": [{"role": "user", "content": "hi"}]}"#;
        let mut whole = text(first);
        append_message(&mut whole, "assistant", "hello");
        let next = br#"{"messages": [{"content": "hi", "role": "user"}, {"role": "assistant", "content": "hello"}, {"role": "user", "content": "more"}]}"#;
        assert!(text(next).starts_with(&whole));
        assert_eq!(text(br#"{"prompt": "once"}"#), b"once");
        assert_eq!(text(b"no JSON"), b"");
    }
}
