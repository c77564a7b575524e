//! The port by which a benchmark tells the workers what to do, and asks what they saw.

use std::io;
use std::rc::Rc;

use serde::Deserialize;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use super::{Mode, Settings, Workers};
use crate::http1::Wire;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModeChange {
    worker: usize,
    mode: Mode,
}

pub async fn serve(listener: TcpListener, workers: Rc<Workers>) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let workers = workers.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = converse(stream, &workers).await {
                eprintln!("control connection: {error}");
            }
        });
    }
}

async fn converse(stream: TcpStream, workers: &Workers) -> io::Result<()> {
    let mut wire = Wire::new(stream)?;
    while let Some(head) = wire.request_head().await? {
        let (mut body, mut framing) = (Vec::new(), head.framing);
        while let Some(data) = wire.next_data(&mut framing).await? {
            body.extend_from_slice(data);
        }
        let (status, answer) = match answer(&head.path, &body, workers) {
            Ok(answer) => ("200 OK", answer),
            Err(reason) => ("400 Bad Request", json!({"error": reason})),
        };
        let answer = answer.to_string();
        let length = answer.len();
        wire.write(format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{answer}").as_bytes()).await?;
    }
    Ok(())
}

fn answer(path: &str, body: &[u8], workers: &Workers) -> Result<serde_json::Value, String> {
    match path {
        "/stats" => Ok(json!(workers.all.iter().map(|worker| worker.stats.get()).collect::<Vec<_>>())),
        "/settings" => {
            let settings: Settings = serde_json::from_slice(body).map_err(|error| error.to_string())?;
            workers.set(settings);
            Ok(json!({}))
        }
        "/mode" => {
            let change: ModeChange = serde_json::from_slice(body).map_err(|error| error.to_string())?;
            let worker = workers.all.get(change.worker).ok_or_else(|| format!("no worker {}", change.worker))?;
            worker.set_mode(change.mode);
            Ok(json!({}))
        }
        path => Err(format!("{path}: GET /stats, POST /settings or POST /mode")),
    }
}
