//! One worker's port: open while the worker is up, closed with all its connections while it is down.

use std::net::SocketAddr;
use std::rc::Rc;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::connection;
use super::{Mode, Worker, Workers};

/// Connections that may wait to be accepted, as when thousands of streams open at once.
const BACKLOG: u32 = 8192;

/// Serves the port for as long as the process lives.
pub async fn serve(first: TcpListener, workers: Rc<Workers>, index: usize) {
    let worker = workers.all[index].clone();
    let address = first.local_addr().expect("a bound socket has an address");
    // The first listener only found the port; each time that the worker comes up the port is opened anew.
    drop(first);
    let mut mode = worker.mode.subscribe();
    loop {
        wait_until(&mut mode, |mode| mode != Mode::Down).await;
        let listener =
            listen(address).unwrap_or_else(|error| panic!("{address} was taken by another program: {error}"));
        accept_until_down(listener, &workers, &worker, &mut mode).await;
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept_until_down(
    listener: TcpListener,
    workers: &Rc<Workers>,
    worker: &Rc<Worker>,
    mode: &mut watch::Receiver<Mode>,
) {
    // Dropped at the end, and with it every connection.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn_local(converse(stream, workers.clone(), worker.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
            () = wait_until(mode, |mode| mode == Mode::Down) => return,
        }
    }
}

async fn converse(stream: TcpStream, workers: Rc<Workers>, worker: Rc<Worker>) {
    // A client that goes away in the middle is part of the measurements.
    let _ = connection::serve(stream, &workers, &worker).await;
}

async fn wait_until(mode: &mut watch::Receiver<Mode>, wanted: impl Fn(Mode) -> bool) {
    // The sender lives as long as the process.
    let _ = mode.wait_for(|&mode| wanted(mode)).await;
}
