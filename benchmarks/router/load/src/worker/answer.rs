//! The bytes of answers.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::LazyLock;

/// What follows a timestamp's mark: nanoseconds of CLOCK_MONOTONIC as 16 digits.
pub const TIMESTAMP_MARK: u8 = b'@';

/// Most text that a stream remembers of itself.
const KEPT_TEXT_BYTES: usize = 64 << 10;

pub const HEALTHY: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
pub const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";

/// Answers in JSON, whole.
pub struct Answers {
    pub error: Vec<u8>,
    pub models: Vec<u8>,
    pub server_info: Vec<u8>,
    pub completion: Vec<u8>,
    pub chat_completion: Vec<u8>,
}

pub static ANSWERS: LazyLock<Answers> = LazyLock::new(|| Answers {
    error: json("500 Internal Server Error", r#"{"error":{"message":"mock 500"}}"#),
    models: json(
        "200 OK",
        r#"{"object":"list","data":[{"id":"mock","object":"model","created":0,"owned_by":"mock","root":"mock"}]}"#,
    ),
    server_info: json(
        "200 OK",
        r#"{"model_path":"mock","tokenizer_path":"mock","served_model_name":"mock","is_generation":true,"tp_size":1,"dp_size":1,"version":"0.4.3"}"#,
    ),
    completion: json(
        "200 OK",
        r#"{"id":"cmpl-1","object":"text_completion","created":0,"model":"mock","choices":[{"index":0,"text":"ok","finish_reason":"length"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}"#,
    ),
    chat_completion: json(
        "200 OK",
        r#"{"id":"chatcmpl-1","object":"chat.completion","created":0,"model":"mock","choices":[{"index":0,"message":{"role":"assistant","content":"ok"},"finish_reason":"length"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}"#,
    ),
});

fn json(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}").into()
}

/// A prompt as token ids, one for each four bytes: an object for a chat, a list of one for a completion.
pub fn rendered(prompt: &[u8], chat: bool) -> Vec<u8> {
    let ids = prompt.chunks(4).map(|part| part.iter().fold(0, |id: u32, &byte| (id * 31 + u32::from(byte)) % 100_003));
    let ids: Vec<String> = ids.map(|id| id.to_string()).collect();
    let object = format!(r#"{{"request_id":"render-1","model":"mock","token_ids":[{}]}}"#, ids.join(","));
    json("200 OK", &if chat { object } else { format!("[{object}]") })
}

pub const STREAM_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";
pub const STREAM_END: &[u8] = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";

/// Appends one server-sent event as an HTTP chunk, and its text to `text`.
pub fn append_chunk(bytes: &mut Vec<u8>, now_ns: u64, text: &mut String) {
    const BEFORE: &str = r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":0,"model":"mock","choices":[{"index":0,"delta":{"content":""#;
    const AFTER: &str = "\"},\"finish_reason\":null}]}\n\n";
    let content = BEFORE.len() + 1 + 16 + AFTER.len();
    write!(bytes, "{content:x}\r\n{BEFORE}{}{now_ns:016}{AFTER}\r\n", TIMESTAMP_MARK as char)
        .expect("a vector takes every write");
    if text.len() < KEPT_TEXT_BYTES {
        write!(text, "{}{now_ns:016}", TIMESTAMP_MARK as char).expect("a string takes every write");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_valid_json() {
        let answers = &*ANSWERS;
        for answer in
            [&answers.error, &answers.models, &answers.server_info, &answers.completion, &answers.chat_completion]
        {
            let text = std::str::from_utf8(answer).unwrap();
            let (_, body) = text.split_once("\r\n\r\n").unwrap();
            serde_json::from_str::<serde_json::Value>(body).unwrap();
        }
    }

    #[test]
    fn prompts_that_share_a_beginning_share_tokens() {
        let ids = |prompt: &str| {
            let answer = String::from_utf8(rendered(prompt.as_bytes(), true)).unwrap();
            let body: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
            body["token_ids"].as_array().unwrap().clone()
        };
        assert_eq!(ids("once upon a time")[..3], ids("once upon a dime")[..3]);
        assert_ne!(ids("once upon a time")[3], ids("once upon a dime")[3]);
    }

    #[test]
    fn a_chunk_is_as_long_as_it_says_and_valid_json() {
        let (mut bytes, mut text) = (Vec::new(), String::new());
        append_chunk(&mut bytes, 42, &mut text);
        let chunk = String::from_utf8(bytes).unwrap();
        let (size, rest) = chunk.split_once("\r\n").unwrap();
        let event = rest.strip_suffix("\r\n").unwrap();
        assert_eq!(usize::from_str_radix(size, 16).unwrap(), event.len());
        let json: serde_json::Value = serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(json["choices"][0]["delta"]["content"], "@0000000000000042");
        assert_eq!(text, "@0000000000000042");
    }
}
