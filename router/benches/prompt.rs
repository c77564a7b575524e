//! Scanning request bodies of 100 bytes to 256 KB for their routing key.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use radixfleet_router::prompt;
use serde_json::json;

/// Words of ordinary length; `escaped` has line breaks and quotes in them as code does.
fn words(bytes: usize, escaped: bool) -> String {
    let mut random = fastrand::Rng::with_seed(bytes as u64);
    let mut text = String::with_capacity(bytes + 16);
    while text.len() < bytes {
        (0..random.usize(1..10)).for_each(|_| text.push(random.lowercase()));
        text.push_str(match random.u8(..16) {
            0..4 if escaped => "\n    ",
            4..6 if escaped => "\"",
            _ => " ",
        });
    }
    text
}

fn completion(text: String) -> Vec<u8> {
    json!({"model": "m", "prompt": text, "max_tokens": 100, "stream": true}).to_string().into_bytes()
}

/// A conversation of messages of `each` bytes.
fn chat(bytes: usize, each: usize, escaped: bool) -> Vec<u8> {
    let message =
        |number| json!({"role": if number % 2 == 0 { "user" } else { "assistant" }, "content": words(each, escaped)});
    let messages: Vec<_> = (0..bytes / each).map(message).collect();
    json!({"model": "m", "messages": messages, "temperature": 0.7, "stream": true}).to_string().into_bytes()
}

fn token_ids(count: usize) -> Vec<u8> {
    let ids: Vec<usize> = (0..count).map(|number| number * 7919 % 128_000).collect();
    json!({"input_ids": ids, "sampling_params": {"max_new_tokens": 10}}).to_string().into_bytes()
}

/// A chat of 2 KB with 16 KB of tool schemas.
fn tools() -> Vec<u8> {
    let parameter =
        json!({"type": "string", "description": "The city and state, e.g. San Francisco, CA", "enum": ["a", "b"]});
    let schema =
        json!({"type": "object", "properties": {"location": parameter, "unit": parameter}, "required": ["location"]});
    let tool = json!({"type": "function", "function": {"name": "weather", "description": words(100, false), "parameters": schema}});
    let messages = json!([{"role": "user", "content": words(2048, false)}]);
    json!({"model": "m", "messages": messages, "tools": vec![tool; 36]}).to_string().into_bytes()
}

fn scan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scan");
    group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    let bodies = [
        ("completion, 100 B", completion(words(40, false))),
        ("chat, 2 KB", chat(2 << 10, 500, false)),
        ("chat with tools, 18 KB", tools()),
        ("completion, 32 KB", completion(words(32 << 10, false))),
        ("chat, 32 KB", chat(32 << 10, 500, false)),
        ("token ids, 32 KB", token_ids(5_500)),
        ("completion, 256 KB", completion(words(256 << 10, false))),
        ("code, 256 KB", completion(words(256 << 10, true))),
        ("chat, 256 KB", chat(256 << 10, 1000, true)),
        ("no prompt, 32 KB", json!({"file": words(32 << 10, false)}).to_string().into_bytes()),
        ("no JSON, 32 KB", words(32 << 10, false).into_bytes()),
    ];
    for (name, body) in &bodies {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(name), body, |bench, body| {
            bench.iter(|| prompt::scan(body, Some("user")));
        });
    }
}

criterion_group!(benches, scan);
criterion_main!(benches);
