//! Requests, ready to be sent again and again.

use std::ops::Range;
use std::str::FromStr;

use fastrand::Rng;

use super::text::words;
use crate::clock::now_ns;

/// Chats that the requests of one run belong to, their length, and that of the prompt which all begin with.
const CHATS: usize = 64;
const CHAT_BYTES: usize = 1500;
const SYSTEM_PROMPT_BYTES: usize = 500;

/// What requests carry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Tiny,
    /// One of 64 chats of about 2 KB with the same system prompt.
    Chat,
    /// A prompt of so many bytes that no other request begins with.
    Distinct(usize),
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tiny" => Ok(Self::Tiny),
            "chat" => Ok(Self::Chat),
            _ => text.parse().map(Self::Distinct).map_err(|_| format!("{text}: give tiny, chat, or a prompt's bytes")),
        }
    }
}

#[derive(Clone)]
pub struct Request {
    pub path: &'static str,
    /// The whole request as HTTP/1.1.
    bytes: Vec<u8>,
    body_at: usize,
    /// Digits that make the prompt one of its own.
    stamp: Option<Range<usize>>,
}

impl Request {
    pub fn new(path: &'static str, body: &str) -> Self {
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        Self { path, body_at: head.len(), bytes: (head + body).into_bytes(), stamp: None }
    }

    /// A conversation so far, as the members of a JSON list.
    pub fn chat(messages: &str, stream: bool, max_tokens: u32) -> Self {
        let body = format!(r#"{{"model":"mock","messages":[{messages}],"stream":{stream},"max_tokens":{max_tokens}}}"#);
        Self::new("/v1/chat/completions", &body)
    }

    pub fn http1(&self) -> &[u8] {
        &self.bytes
    }

    pub fn body(&self) -> &[u8] {
        &self.bytes[self.body_at..]
    }

    fn distinct(prompt_bytes: usize) -> Self {
        let filler = words(&mut Rng::with_seed(7), prompt_bytes.saturating_sub(16));
        let before = r#"{"model":"mock","prompt":""#;
        let mut request =
            Self::new("/v1/completions", &format!(r#"{before}{:016x}{filler}","stream":false,"max_tokens":1}}"#, 0));
        let at = request.body_at + before.len();
        request.stamp = Some(at..at + 16);
        request
    }

    fn set_stamp(&mut self, stamp: u64) {
        if let Some(at) = self.stamp.clone() {
            self.bytes[at].copy_from_slice(format!("{stamp:016x}").as_bytes());
        }
    }
}

pub fn message(role: &str, content: &str) -> String {
    format!(r#"{{"role":"{role}","content":"{content}"}}"#)
}

/// An endless row of requests of one kind.
#[derive(Clone)]
pub struct Requests {
    requests: Vec<Request>,
    next: usize,
    /// Two rows of one process, and of processes one after the other, do not meet.
    stamp: u64,
}

impl Requests {
    pub fn new(kind: Kind, index: usize) -> Self {
        let requests = match kind {
            Kind::Tiny => {
                vec![Request::new("/v1/completions", r#"{"model":"mock","prompt":"Hello","max_tokens":1}"#)]
            }
            Kind::Chat => chats(),
            Kind::Distinct(bytes) => vec![Request::distinct(bytes)],
        };
        Self { requests, next: index, stamp: now_ns().rotate_left(20) + ((index as u64) << 52) }
    }

    pub fn next(&mut self) -> &Request {
        self.next += 1;
        self.stamp = self.stamp.wrapping_add(1);
        let at = self.next % self.requests.len();
        self.requests[at].set_stamp(self.stamp);
        &self.requests[at]
    }
}

fn chats() -> Vec<Request> {
    let mut rng = Rng::with_seed(1);
    let system = message("system", &words(&mut rng, SYSTEM_PROMPT_BYTES));
    (0..CHATS)
        .map(|_| {
            let turns: Vec<String> = (0..5)
                .map(|turn| {
                    let role = if turn % 2 == 0 { "user" } else { "assistant" };
                    message(role, &words(&mut rng, CHAT_BYTES / 5))
                })
                .collect();
            Request::chat(&format!("{system},{}", turns.join(",")), false, 1)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_kind_makes_valid_requests() {
        for kind in [Kind::Tiny, Kind::Chat, Kind::Distinct(2048)] {
            let mut requests = Requests::new(kind, 0);
            let request = requests.next();
            let body: serde_json::Value = serde_json::from_slice(request.body()).unwrap();
            assert_eq!(body["model"], "mock");
            let text = std::str::from_utf8(request.http1()).unwrap();
            assert!(text.contains(&format!("content-length: {}\r\n", request.body().len())));
        }
    }

    #[test]
    fn distinct_prompts_differ_at_their_beginning() {
        let mut seen = HashSet::new();
        for index in 0..8 {
            let mut requests = Requests::new(Kind::Distinct(2048), index);
            for _ in 0..100 {
                let body: serde_json::Value = serde_json::from_slice(requests.next().body()).unwrap();
                let prompt = body["prompt"].as_str().unwrap();
                assert_eq!(prompt.len(), 2048);
                assert!(seen.insert(prompt[..16].to_owned()));
            }
        }
    }

    #[test]
    fn a_kind_is_a_word_or_a_number_of_bytes() {
        assert_eq!("tiny".parse(), Ok(Kind::Tiny));
        assert_eq!("32768".parse(), Ok(Kind::Distinct(32768)));
        assert!("huge".parse::<Kind>().unwrap_err().contains("huge"));
    }
}
