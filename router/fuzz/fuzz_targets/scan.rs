//! The scan of a body never panics, and of well-formed JSON it finds what serde_json finds.

#![no_main]

use std::fmt;

use libfuzzer_sys::fuzz_target;
use radixfleet_router_fuzz::prefix::Key;
use radixfleet_router_fuzz::prompt;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// An object's members as they stand, names with their quotes.
struct Members<'a>(Vec<(&'a str, &'a str)>);

fuzz_target!(|body: &[u8]| {
    let scanned = prompt::scan(body, Some("user"));
    let Ok(members) = serde_json::from_slice::<Members>(body) else { return };
    let text = |name| members.last(name).and_then(|value| serde_json::from_str::<String>(value).ok());
    assert_eq!(scanned.model.as_deref(), text("model").as_deref());
    assert_eq!(scanned.stream, members.last("stream") == Some("true"));
    assert_eq!(scanned.affinity, members.last("user").and_then(affinity).map(str::as_bytes));
    if let Some(text) = prompt_text(&members) {
        assert_eq!(scanned.key, Key::new(&text));
    }
});

fn affinity(value: &str) -> Option<&str> {
    if value.starts_with(|first: char| first == '-' || first.is_ascii_digit()) { Some(value) } else { string(value) }
}

/// `None` if a part of a message is no text: then its digest is in the key.
fn prompt_text(members: &Members) -> Option<Vec<u8>> {
    let Some(messages) = members.last("messages").and_then(list) else {
        let fields = ["text", "prompt", "input_ids", "input"].map(|name| members.last(name));
        let mut prompts = fields.into_iter().flatten().filter_map(|value| {
            let inside = |value: &str| value[1..value.len() - 1].trim_ascii().as_bytes().to_vec();
            string(value).map(|text| text.as_bytes().to_vec()).or_else(|| value.starts_with('[').then(|| inside(value)))
        });
        return Some(prompts.next().unwrap_or_default());
    };
    let mut text = Vec::new();
    if let Some(tools) = members.last("tools").filter(|tools| tools.starts_with('[')) {
        text.extend_from_slice(tools.as_bytes());
        text.push(0x1e);
    }
    for message in messages {
        let Ok(message) = serde_json::from_str::<Members>(message.get()) else { continue };
        text.extend_from_slice(message.last("role").and_then(string).unwrap_or_default().as_bytes());
        text.push(0x1f);
        let content = message.last("content").unwrap_or_default();
        text.extend_from_slice(string(content).unwrap_or_default().as_bytes());
        for part in list(content).unwrap_or_default() {
            let Ok(members) = serde_json::from_str::<Members>(part.get()) else {
                text.extend_from_slice(string(part.get()).unwrap_or_default().as_bytes());
                continue;
            };
            text.extend_from_slice(members.last("text").and_then(string)?.as_bytes());
        }
        text.extend_from_slice(
            message.last("tool_calls").filter(|calls| calls.starts_with('[')).unwrap_or_default().as_bytes(),
        );
        text.push(0x1e);
    }
    Some(text)
}

fn list(value: &str) -> Option<Vec<&RawValue>> {
    value.starts_with('[').then(|| serde_json::from_str(value).expect("a part of well-formed JSON"))
}

/// A string as it stands, without its quotes.
fn string(value: &str) -> Option<&str> {
    value.strip_prefix('"')?.strip_suffix('"')
}

impl<'a> Members<'a> {
    /// The value of the last member whose name is written as `name`.
    fn last(&self, name: &str) -> Option<&'a str> {
        let found = self.0.iter().rev().find(|member| string(member.0) == Some(name));
        found.map(|member| member.1)
    }
}

impl<'a> Deserialize<'a> for Members<'a> {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'a> Visitor<'a> for Collect {
            type Value = Members<'a>;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Members<'a>, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<&RawValue, &RawValue>()? {
                    members.push((name.get(), value.get()));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}
