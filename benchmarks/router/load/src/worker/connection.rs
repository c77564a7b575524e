//! One connection to a worker: requests read, answered as the worker's mode and settings say.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use serde::Deserialize;
use tokio::net::TcpStream;

use super::answer::{self, ANSWERS};
use super::engine::Engine;
use super::prompt;
use super::{Mode, Worker, Workers};
use crate::clock::{now_ns, sleep_until};
use crate::http1::{Framing, Head, Wire};

/// A longer body is dropped unread and answered as one without options, unless prefill is modelled.
const LONGEST_READ_BODY: u64 = 4 << 10;

/// Chunks in one write of a stream that is not paced.
const UNPACED_CHUNKS: u32 = 16;

/// The fields of a body that change the answer.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Wanted {
    stream: bool,
    max_tokens: Option<u32>,
    /// The newer name, which some routers write in place of the older.
    max_completion_tokens: Option<u32>,
}

/// What a path is answered with.
enum Route {
    Generation {
        chat: bool,
    },
    /// The prompt's tokens, which one of the routers asks for to know what prompts share.
    Render {
        chat: bool,
    },
    Information(&'static [u8]),
}

pub async fn serve(stream: TcpStream, workers: &Rc<Workers>, worker: &Rc<Worker>) -> io::Result<()> {
    let mut wire = Wire::new(stream)?;
    let mut body = Vec::new();
    while let Some(head) = wire.request_head().await? {
        let engine = worker.engine.borrow().clone();
        let route = route(&head.path);
        let whole = engine.is_modelled() || matches!(route, Route::Render { .. });
        read_body(&mut wire, &head, whole, &mut body).await?;
        let mode = *worker.mode.borrow();
        match route {
            Route::Information(_) | Route::Render { .. } if mode == Mode::Hang => return hang(worker, mode).await,
            Route::Information(answer) => wire.write(answer).await?,
            Route::Render { chat } => wire.write(&answer::rendered(&prompt::text(&body), chat)).await?,
            Route::Generation { chat } => {
                worker.count(|stats| {
                    stats.requests += 1;
                    if stats.first_request_ns == 0 {
                        stats.first_request_ns = now_ns();
                    }
                });
                match mode {
                    Mode::Hang | Mode::HangGeneration => return hang(worker, mode).await,
                    Mode::Errors => wire.write(&ANSWERS.error).await?,
                    Mode::Serve | Mode::Down => {
                        let interval = Duration::from_micros(workers.settings.get().chunk_interval_us);
                        generate(&mut wire, chat, &body, worker, &engine, interval).await?;
                    }
                }
            }
        }
        if !head.keep_alive {
            break;
        }
    }
    Ok(())
}

fn route(path: &str) -> Route {
    match path.split('?').next().unwrap_or_default() {
        "/v1/chat/completions" => Route::Generation { chat: true },
        "/v1/completions" | "/generate" => Route::Generation { chat: false },
        "/v1/chat/completions/render" => Route::Render { chat: true },
        "/v1/completions/render" => Route::Render { chat: false },
        "/v1/models" => Route::Information(&ANSWERS.models),
        "/health" | "/health_generate" => Route::Information(answer::HEALTHY),
        "/get_model_info" | "/model_info" | "/get_server_info" | "/server_info" => {
            Route::Information(&ANSWERS.server_info)
        }
        _ => Route::Information(answer::NOT_FOUND),
    }
}

/// Leaves in `body` what the answer may depend on.
async fn read_body(wire: &mut Wire, head: &Head, whole: bool, body: &mut Vec<u8>) -> io::Result<()> {
    body.clear();
    let mut framing = head.framing;
    if let Framing::Length(length) = framing
        && length > LONGEST_READ_BODY
        && !whole
    {
        return wire.discard(framing).await;
    }
    while let Some(data) = wire.next_data(&mut framing).await? {
        body.extend_from_slice(data);
    }
    Ok(())
}

/// Keeps the client waiting until the worker does something else; then the connection ends without an answer.
async fn hang(worker: &Worker, mode: Mode) -> io::Result<()> {
    // The sender lives as long as the process.
    let _ = worker.mode.subscribe().wait_for(|&now| now != mode).await;
    Ok(())
}

async fn generate(
    wire: &mut Wire,
    chat: bool,
    body: &[u8],
    worker: &Worker,
    engine: &Engine,
    interval: Duration,
) -> io::Result<()> {
    // A body that is no JSON, or was dropped unread, asks for the shortest answer.
    let wanted: Wanted = serde_json::from_slice(body).unwrap_or_default();
    let chunks = wanted.max_tokens.or(wanted.max_completion_tokens).unwrap_or(1).max(1);
    let prompt = engine.prefill(body, worker).await;
    if !wanted.stream {
        return wire.write(if chat { &ANSWERS.chat_completion } else { &ANSWERS.completion }).await;
    }
    wire.write(answer::STREAM_HEAD).await?;
    let text = stream(wire, chunks, interval).await?;
    engine.keep_answer(prompt, &text);
    wire.write(answer::STREAM_END).await
}

/// Sends the chunks; returns the text that they carried, where it is short enough to become part of a next turn.
async fn stream(wire: &mut Wire, chunks: u32, interval: Duration) -> io::Result<String> {
    let mut text = String::new();
    let mut bytes = Vec::new();
    if interval.is_zero() {
        for first in (0..chunks).step_by(UNPACED_CHUNKS as usize) {
            bytes.clear();
            for _ in first..chunks.min(first + UNPACED_CHUNKS) {
                answer::append_chunk(&mut bytes, now_ns(), &mut text);
            }
            wire.write(&bytes).await?;
            // A reader that keeps up would otherwise have the thread for itself.
            tokio::task::yield_now().await;
        }
        return Ok(text);
    }
    let mut next = now_ns();
    for _ in 0..chunks {
        sleep_until(next).await;
        bytes.clear();
        answer::append_chunk(&mut bytes, now_ns(), &mut text);
        wire.write(&bytes).await?;
        next += interval.as_nanos() as u64;
    }
    Ok(text)
}
